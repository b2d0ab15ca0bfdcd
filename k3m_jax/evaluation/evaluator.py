"""Held-out evaluation: the objectives' losses and rates, the ranking of links, and baselines.

The constant baseline predicts the same for every item. Its outputs are ordinary ones (log
frequencies as logits, the mean feature as a prediction), so they go through the objectives' own
code, at the very targets that the model has. Links have a baseline of their own (`LinkRanking`).
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from k3m_jax import objectives
from k3m_jax.data.input.batch import Batch, BatchLayout
from k3m_jax.data.input.pipeline import HostRows, Inputs, eval_batches, eval_items, train_batches
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.report import Report, Row, Score
from k3m_jax.evaluation.stability_evaluator import StabilityEvaluator
from k3m_jax.metrics import Ranks, hits_at, reciprocal_rank, wilson_interval
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives import Objective
from k3m_jax.objectives.base import Sum
from k3m_jax.objectives.link_prediction import LinkPrediction, energy
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import data_shards
from k3m_jax.parallel.placement import place_batch, process_blocks, put_on_all_hosts
from k3m_jax.parallel.shardings import batch_sharding, replicated
from k3m_jax.settings import Packing, UserError
from k3m_jax.tasks.candidates import PAIRS, Candidates

BASELINE = "floor"  # the baselines' name in metrics and reports
BASELINE_ITEMS = 2048  # training items that the constant prediction is counted over
NOTE = (
    "the most frequent answer in training: per property for links, of a sample of its items for "
    "other targets"
)
Metrics = dict[str, Sum]  # item by item, float64 [I] both; those without targets are omitted


class Evaluator:
    """Measures parameters on `data.valid_split`; built once for a run, compiled at its first call.

    Targets of held-out items and baselines are fixed. Sums are in float64. `network` has settings
    that `inputs` resolved; rows are split over `mesh`.
    """

    def __init__(
        self, network: Network, mesh: Mesh, inputs: Inputs, training: Inputs | None = None
    ):
        """`training` is what the constant baseline is counted over; None is `inputs`."""
        self._trained_on = training or inputs
        self._network, self._mesh, self._inputs = network, mesh, inputs
        self._layout = BatchLayout.of(network.settings).padded
        self._objectives = self._layout.objectives
        self._apply = jax.jit(self._measure_batch, out_shardings=replicated(mesh))
        stable = network.settings.evaluation.stability
        self._stability = StabilityEvaluator(network, mesh, inputs) if stable else None

    def check(self) -> None:
        """Raises UserError where the split is missing or empty, or its first item can't be read.

        Before a run's first step: its first evaluation may be days away.
        """
        if not len(items := eval_items(self._network.settings, self._inputs)):
            raise UserError("data.valid_split: there is nothing in it to evaluate on")
        _ = items[0]

    def __call__(self, params: Params) -> dict[str, float]:
        """`loss`, the metrics, `floor/…` of each, and the number of targets as `targets/…`.

        With `evaluation.stability` items also what `StabilityEvaluator` gives.

        Raises UserError where the split is empty.
        """
        model, baseline, skipped = self.measure(params)
        result = {}
        for prefix, metrics in (("", model), (f"{BASELINE}/", baseline)):
            means = {name: _mean(metric) for name, metric in metrics.items()}
            losses = [o.weight * means.get(f"{o.name}_loss", 0.0) for o in self._objectives]
            result |= {f"{prefix}{k}": x for k, x in {"loss": sum(losses), **means}.items()}
        targets = {
            f"targets/{objective.name}_{reported.unit}": float(model[name].weight.sum())
            for objective in self._objectives
            for name, reported in objective.reported.items()
            if name in model
        }
        if self._stability:
            result |= self._stability.values(params)
        return result | targets | {"targets/trivial_links_skipped": float(skipped)}

    def reports(
        self, params: Params, checkpoint: int, *, trivial_baselines: bool = True
    ) -> Iterator[Report]:
        """`report` and, of items that are not corrupted, that of stability, next to its floors."""
        if not self._stability or self._network.settings.data.valid_corruption.rate:
            yield self.report(params, checkpoint)
            return
        found = self._stability(params)
        yield self.report(params, checkpoint, self._stability.row(found))
        yield self._stability.report(found, checkpoint, trivial_baselines=trivial_baselines)

    def report(self, params: Params, checkpoint: int, further: Row | None = None) -> Report:
        """The same as a table, rates first, then losses; raises what a call does."""
        model, baseline, skipped = self.measure(params)
        rows = []
        for objective in self._objectives:
            for name, (label, unit, is_rate) in objective.reported.items():
                score, floor, count = Score(None), Score(None), 0
                if (metric := model.get(name)) is not None:
                    mean, count = _mean(metric), round(metric.weight.sum())
                    bounded = is_rate and np.isfinite(mean)
                    score = Score(mean, wilson_interval(*metric) if bounded else None)
                    floor = Score(_mean(baseline[name]))
                rows.append(Row(name, label, score, {BASELINE: floor}, count, unit, is_rate))
        rows += [further] if further else []
        rows.sort(key=lambda row: not row.is_rate)
        notes = {BASELINE: NOTE, "intervals": "items count as wholes"}
        if skipped:
            notes["links skipped because no false value exists"] = skipped
        data = self._network.settings.data
        split, corruption = data.valid_split, str(data.valid_corruption)
        return Report("evaluation", "pretraining", split, corruption, checkpoint, rows, notes)

    def measure(self, params: Params) -> tuple[Metrics, Metrics, int]:
        """Metrics of the model and of its baselines, and the number of trivial links skipped."""
        baseline, links = self._prepared
        measured = self._run(lambda placed, _: self._apply(params, placed))
        sums, embeddings = zip(*measured, strict=True)
        model, c = self._joined(sums), np.concatenate(embeddings)
        if links is None:
            return model, baseline, 0
        model |= _link_metrics(links(params, c), links.items, len(c))
        return model, baseline, links.trivial_links_skipped

    @functools.cached_property
    def _prepared(self) -> tuple[Metrics, "LinkRanking | None"]:
        """What does not depend on parameters: the baselines, and the queries of LPM if it is on."""
        counts, chosen = constant_counts(self._objectives, self._training()), self._objectives
        constant = jax.jit(
            # Counts are an argument, not a closure: XLA would fold a whole batch of them, slowly.
            lambda counts, batch: item_sums(chosen, constant_outputs(chosen, counts, batch), batch),
            out_shardings=replicated(self._mesh),
        )
        measured = self._run(lambda placed, batch: (constant(counts, placed), self._queries(batch)))
        if not measured:
            raise UserError("data.valid_split: there is nothing in it to evaluate on")
        sums, queries = zip(*measured, strict=True)
        baseline, links = self._joined(sums), None
        for objective in chosen:
            for name, rate in objective.constant_rates.items():
                if name in baseline:
                    weight = baseline[name].weight
                    baseline[name] = Sum(rate * weight, weight)
        if lpm := next((o for o in chosen if isinstance(o, LinkPrediction)), None):
            embedder = Embedder(self._network, self._mesh, self._inputs.tokenizer)
            targets = np.concatenate([batch["link_target"] for batch in queries])
            known = [ids[ids != UNKNOWN] for batch in queries for ids in batch["link_known"]]
            links = LinkRanking(embedder, lpm, self._inputs.vocabulary, targets, known)
            baseline |= _link_metrics(links.majority, links.items, len(targets))
        return baseline, links

    def _run(self, measure: Callable[[dict[str, jax.Array], Batch], Any]) -> list[Any]:
        """Results of each held-out batch, given on the devices and as this process' host has it."""
        found = []
        for number, batch in enumerate(self._held_out()):
            distributed.heartbeat(f"batch {number} of the held-out products")
            with jax.set_mesh(self._mesh):
                placed = place_batch(
                    self._mesh, {name: batch[name] for name in self._layout.arrays}
                )
                found.append(jax.device_get(measure(placed, batch)))
        return found

    def _held_out(self) -> Iterator[Batch]:
        rows = HostRows(*process_blocks(self._mesh))
        return eval_batches(self._network.settings, self._inputs, rows=rows)

    def _training(self) -> Iterator[Batch]:
        """A sample of whole training batches, for the constant prediction."""
        run = self._network.settings
        # A run of as many steps as the sample needs, so that none are read ahead of it in vain.
        steps = min(-(-BASELINE_ITEMS // run.training.batch), run.training.steps)
        data = dataclasses.replace(run.data, workers=0, siblings=False)
        packing = Packing(texts=False)
        training = dataclasses.replace(run.training, steps=steps)
        run = dataclasses.replace(run, data=data, training=training, packing=packing)
        return train_batches(run, self._trained_on)

    def _measure_batch(self, params: Params, batch: Batch) -> tuple[dict[str, Sum], jax.Array]:
        outputs = self._network.apply(params, batch)
        return item_sums(self._objectives, outputs, batch), outputs.product.embedding

    def _queries(self, batch: Batch) -> dict[str, Any]:
        """The queries of LPM, of all processes' rows; {} without it."""
        found = {name: batch[name] for name in ("link_target", "link_known") if name in batch}
        if not found or jax.process_count() == 1:
            return found
        known = found["link_known"]
        widest = multihost_utils.process_allgather(np.array(known.shape[1])).max()
        padding = ((0, 0), (0, widest - known.shape[1]))
        found["link_known"] = np.pad(known, padding, constant_values=UNKNOWN)
        everywhere = jax.jit(lambda x: x, out_shardings=replicated(self._mesh))
        return everywhere(place_batch(self._mesh, found))

    def _joined(self, batches: Sequence[Mapping[str, Sum]]) -> Metrics:
        """The reported sums of all batches."""
        sums = jax.tree.map(lambda *x: np.concatenate(x).astype(np.float64), *batches)
        sums |= {f"{o.name}_loss": sums[o.name] for o in self._objectives if o.name in sums}
        names = [name for o in self._objectives for name in o.reported if name in sums]
        return {name: sums[name] for name in names if sums[name].weight.any()}


def constant_counts(chosen: Sequence[Objective], batches: Iterable[Batch]) -> dict[str, Any]:
    """What the constant baseline knows of some training batches, by objective."""
    counts: dict[str, Any] = {objective.name: 0.0 for objective in chosen}
    for batch in batches:
        counts = {o.name: counts[o.name] + o.count(batch) for o in chosen}
    return counts


def constant_outputs(chosen: Sequence[Objective], counts: Mapping[str, Any], batch: Batch) -> Any:
    """Outputs of a model, by attribute, for a batch; an embedding that no item differs in."""
    product = types.SimpleNamespace(embedding=jnp.zeros((len(next(iter(batch.values()))), 1)))
    outputs = types.SimpleNamespace(product=product)
    for objective in chosen:
        vars(outputs).update(objective.constant_outputs(counts[objective.name], batch))
    return outputs


def item_sums(
    chosen: Sequence[Objective], outputs: Any, batch: Mapping[str, jax.Array]
) -> dict[str, Sum]:
    """`objectives.sums` item by item: every total and weight [B] instead of a scalar.

    Sums are linear in the items' weights, so what an item adds is the derivative by its weight.
    """
    # In a fixed order: a set's would make another program of it in every process.
    names = sorted({name for objective in chosen for name in objective.weight_arrays})

    def sums(items: jax.Array) -> dict[str, Sum]:
        scaled = {name: (batch[name].T * items).T for name in names}
        return objectives.sums(chosen, outputs, {**batch, **scaled}, key=None)

    return jax.jacrev(sums)(jnp.ones(len(next(iter(batch.values())))))


class LinkRanking:
    """Ranks the true value of fixed queries among all other values of its property.

    The baseline is the majority's ranking, which orders a property's values by how many training
    items have them. A query is left out where no false value exists (a property with one value, or
    an item that has all of them): everyone would answer it right. `items` [Q] are those whose
    queries are ranked, `majority` [Q] is where their true values stand by training count.
    """

    def __init__(
        self,
        embedder: Embedder,
        objective: LinkPrediction,
        vocabulary: ValueVocabulary,
        targets: np.ndarray,
        known: Sequence[np.ndarray],
    ):
        """`targets` [I] are the queried value of each item, UNKNOWN (-1) is none.

        `known` [I] are arrays of all values of that property that are true of the item.
        """
        queried = np.flatnonzero(targets != UNKNOWN)
        ranges = [vocabulary.range(vocabulary.pairs[target][0]) for target in targets[queried]]
        values = np.array([end - start for start, end in ranges], np.int64)
        self.items = queried[values > [len(known[item]) for item in queried]]
        self.trivial_links_skipped = len(queried) - len(self.items)
        self._embedder = embedder
        self._candidates = Candidates(
            vocabulary,
            targets[self.items],
            [known[item] for item in self.items],
            embedder.tokenizer,
            objective.length,
            progress=lambda: distributed.heartbeat("the candidate values to write"),
        )
        self.majority = self._candidates.target_ranks(
            vocabulary.counts[block.ids] for block in self._candidates.blocks
        )
        self._score = jax.jit(
            lambda c, p, v, q, t: -energy(c[q], p[t], v[t], objective.options.norm),
            out_shardings=replicated(embedder.mesh),
        )

    def __call__(self, params: Params, embeddings: np.ndarray) -> Ranks:
        """Where the true values stand [Q]; embeddings of all items [I, D] without the answers."""
        if not len(self.items):
            return self.majority
        mesh = self._embedder.mesh
        p, v = self._embedder.at(params).candidates(self._candidates.texts)
        arrays = [put_on_all_hosts(replicated(mesh), x) for x in (embeddings[self.items], p, v)]

        def score(queries: np.ndarray, texts: np.ndarray) -> np.ndarray:
            distributed.heartbeat("the ranking of links")
            places = (put_on_all_hosts(batch_sharding(mesh), x) for x in (queries, texts))
            return np.asarray(self._score(*arrays, *places))

        size = -(-PAIRS // data_shards(mesh)) * data_shards(mesh)
        return self._candidates.target_ranks(self._candidates.scores(score, size))


def _link_metrics(ranks: Ranks, queried: np.ndarray, items: int) -> Metrics:
    """Hits and reciprocal ranks of the items with a query, among all items: [items] each."""
    if not len(queried):
        return {}
    hits = {f"link_hits_at_{k}": hits_at(k, ranks) for k in (1, 10)}
    weights = np.bincount(queried, minlength=items).astype(np.float64)
    return {
        name: Sum(np.bincount(queried, values, items), weights)
        for name, values in {**hits, "link_mrr": reciprocal_rank(ranks)}.items()
    }


def _mean(metric: Sum) -> float:
    return float(metric.total.sum() / metric.weight.sum())
