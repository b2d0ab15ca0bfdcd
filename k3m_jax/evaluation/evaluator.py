"""Held-out evaluation: the objectives' losses and rates and the ranking of links, with floors."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from k3m_jax import settings
from k3m_jax.data.input.batch import Batch, batch_spec
from k3m_jax.data.input.pipeline import Inputs, eval_batches, train_batches
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.evaluation.constant_baseline import NCE_CHANCE, constant_prediction
from k3m_jax.evaluation.link_ranking import LinkRanking, Questions
from k3m_jax.metrics.ranking import Ranks, hits_at, reciprocal_rank
from k3m_jax.model.k3m import Outputs
from k3m_jax.model.network import Network
from k3m_jax.objectives import pretraining
from k3m_jax.objectives.sums import Sum
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import process_blocks
from k3m_jax.parallel.shardings import place_batch, replicated, use_mesh
from k3m_jax.reproductions.release.model import ReleasedOutputs
from k3m_jax.settings import UserError

FLOOR_ITEMS = 2048  # training items whose answers the floors are made from

# The counts of questions, by a metric that is of them.
QUESTIONS = {
    "tokens": "mlm_loss",
    "regions": "mom_loss",
    "links": "link_mrr",
    "value_tokens": "mvm_loss",
    "pairs": "structure_loss",
}

# What is read of `pretraining.sums`, by the name it has here. LPM's accuracy against a handful of
# false triples is left to training: the ranking among all values says more.
NAMES = {
    "mlm": "mlm_loss",
    "mlm_accuracy": "mlm_accuracy",
    "mom": "mom_loss",
    "mom_top1": "mom_top1",
    "lpm": "lpm_loss",
    "mvm": "mvm_loss",
    "mvm_accuracy": "mvm_accuracy",
    "structure": "structure_loss",
    "structure_accuracy": "structure_accuracy",
}


class PerItemMetric(NamedTuple):
    """A metric, item by item; its value is right.sum() / asked.sum()."""

    right: np.ndarray  # [I] float64: questions answered right, or the loss of the questions
    asked: np.ndarray  # [I] float64: questions

    @property
    def value(self) -> float:
        """The average over all questions."""
        return float(self.right.sum() / self.asked.sum())


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """Each metric of the model and of its floor; one that nothing was asked for is absent."""

    model: Mapping[str, PerItemMetric]
    floor: Mapping[str, PerItemMetric]
    weights: Mapping[str, float]  # of the tasks in the total loss
    trivial_links_skipped: int

    def values(self) -> dict[str, float]:
        """`loss`, the metrics, `floor/…` of each and `questions/…`: how many were asked."""
        result = self._with_total(self.model)
        result |= {f"floor/{name}": x for name, x in self._with_total(self.floor).items()}
        result |= {
            f"questions/{name}": float(self.model[metric].asked.sum())
            for name, metric in QUESTIONS.items()
            if metric in self.model
        }
        return result | {"questions/trivial_links_skipped": float(self.trivial_links_skipped)}

    def _with_total(self, metrics: Mapping[str, PerItemMetric]) -> dict[str, float]:
        values = {name: answers.value for name, answers in metrics.items()}
        losses = [weight * values.get(f"{t}_loss", 0.0) for t, weight in self.weights.items()]
        return {"loss": sum(losses), **values}


class Evaluator:
    """Measures parameters on a held-out split; built once for a run, compiled at its first call.

    The same parameters get the same numbers: the masks, the asked triples and their negatives of
    held-out items are fixed, and so are the floors. Sums are in float64.
    """

    def __init__(
        self,
        network: Network,
        mesh: Mesh,
        held_out: Callable[[], Iterable[Batch]],
        training: Callable[[], Iterable[Batch]],
        table: ValueVocabulary,
        tokenizer: Tokenizer,
    ):
        """See `make_evaluator` for the usual way.

        Args:
          network: the model, its settings resolved.
          mesh: the devices; rows are spread over them.
          held_out: one pass over the split, this process' rows, with `link_target`, `link_known`.
          training: a sample of whole training batches, for the floors.
          table: of the values that links are ranked among.
          tokenizer: that writes them.
        """
        self._network, self._mesh = network, mesh
        self._held_out, self._training = held_out, training
        self._table, self._tokenizer = table, tokenizer
        self._objectives = network.settings.objectives
        self._apply = jax.jit(self._answer, out_shardings=replicated(mesh))
        self._links: LinkRanking | None = None
        self._floor: dict[str, PerItemMetric] = {}

    def __call__(self, params: Any) -> dict[str, float]:
        """The metrics as `Measurement.values` gives them."""
        return self.measure(params).values()

    def measure(self, params: Any) -> EvalResult:
        """Runs over the split; at the first call once more before, for questions and floors.

        Raises:
          UserError: the split is empty.
        """
        if self._links is None:
            self._links, self._floor = self._prepare()
        sums, embeddings = [], []
        for number, batch in enumerate(self._held_out()):
            distributed.heartbeat(f"batch {number} of the held-out products")
            with use_mesh(self._mesh):
                answer = self._apply(params, self._place(batch))
            for whole, part in zip((sums, embeddings), jax.device_get(answer), strict=True):
                whole.append(part)
        model = _answers(sums)
        if len(self._links.items):
            c = np.concatenate(embeddings)
            model |= _link_answers(self._links(params, c), self._links.items, len(c))
        tasks = pretraining.tasks(batch_spec(self._network.settings, 1))
        weights = {task: getattr(self._objectives, task).weight for task in tasks}
        return EvalResult(model, self._floor, weights, self._links.without_rival)

    def _prepare(self) -> tuple[LinkRanking, dict[str, PerItemMetric]]:
        """What does not depend on parameters: the questions, and the floors' answers to them."""
        constant = constant_prediction(self._training(), self._network.settings)
        answer = jax.jit(
            # An argument, not a closure: XLA would fold what it says of a whole batch, slowly.
            lambda same, batch: item_sums(same.outputs(batch), batch, self._objectives),
            out_shardings=replicated(self._mesh),
        )
        sums, questions = [], []
        for number, batch in enumerate(self._held_out()):
            distributed.heartbeat(f"batch {number} of the held-out products, for the floors")
            sums.append(jax.device_get(answer(constant, self._place(batch))))
            questions.append(self._questions(batch))
        if not sums:
            raise UserError("data.valid_split: there is nothing in it to evaluate on")
        links = LinkRanking(
            self._network, self._mesh, self._table, self._tokenizer, _join(questions)
        )
        floor = _answers(sums)
        if self._objectives.mom.variant == "nce" and "mom_top1" in floor:
            # A tie is no right answer there, and the floor ties with everything.
            asked = floor["mom_top1"].asked
            floor["mom_top1"] = PerItemMetric(NCE_CHANCE * asked, asked)
        if len(links.items):
            items = sum(len(asked.targets) for asked in questions)
            floor |= _link_answers(links.majority, links.items, items)
        return links, floor

    def _place(self, batch: Batch) -> dict[str, jax.Array]:
        """What the network reads of a batch, on the devices."""
        arrays = {name: x for name, x in batch.items() if name not in ("link_target", "link_known")}
        return place_batch(self._mesh, arrays)

    def _questions(self, batch: Batch) -> Questions:
        """The questions of a batch, of all processes' rows."""
        asked = Questions(batch["link_target"], batch["link_known"])
        if jax.process_count() == 1:
            return asked
        width = multihost_utils.process_allgather(np.array(asked.known.shape[1])).max()
        arrays = place_batch(self._mesh, {"t": asked.targets, "k": _widen(asked.known, width)})
        everywhere = jax.jit(lambda x: x, out_shardings=replicated(self._mesh))(arrays)
        return Questions(np.asarray(everywhere["t"]), np.asarray(everywhere["k"]))

    def _answer(self, params: Any, batch: Batch) -> tuple[dict[str, Sum], jax.Array]:
        outputs = self._network.apply(params, batch)
        return item_sums(outputs, batch, self._objectives), outputs.product.embedding


def make_evaluator(
    network: Network, mesh: Mesh, inputs: Inputs, *, split: str | None = None
) -> Evaluator:
    """The evaluator of a run.

    Args:
      network: the model, its settings resolved by `inputs`.
      mesh: the devices.
      inputs: the data.
      split: which split to measure; `data.valid_split` if None.
    """
    chosen = network.settings
    blocks, shards = process_blocks(mesh)
    # A run of as many steps as are wanted, so that none are read ahead of it in vain.
    steps = min(-(-FLOOR_ITEMS // chosen.training.batch), chosen.training.steps)
    sample = dataclasses.replace(
        chosen,
        data=dataclasses.replace(chosen.data, workers=0),
        training=dataclasses.replace(chosen.training, steps=steps),
    )
    training = functools.partial(train_batches, sample, *inputs)
    held_out = functools.partial(
        eval_batches, chosen, *inputs, split=split, blocks=blocks, shards=shards
    )
    return Evaluator(network, mesh, held_out, training, inputs.table, inputs.tokenizer)


def item_sums(
    outputs: Outputs | ReleasedOutputs, batch: Batch, objectives: settings.Objectives
) -> dict[str, Sum]:
    """`pretraining.sums` item by item: every total and weight [B] instead of a scalar.

    Sums are linear in the items' weights, so what an item adds is the derivative by its weight.
    """
    asked = [name for task in pretraining.tasks(batch) for name in pretraining.TASKS[task]]

    def sums(items):
        scaled = {name: (batch[name].T * items).T for name in asked}
        return pretraining.sums(outputs, {**batch, **scaled}, objectives, key=None)

    return jax.jacrev(sums)(jnp.ones(len(batch["mlm_weights"])))


def _answers(batches: Iterable[Mapping[str, Sum]]) -> dict[str, PerItemMetric]:
    """The items' sums of all batches in a line; without what nothing was asked for."""
    batches = list(batches)
    joined = {
        NAMES[name]: PerItemMetric(
            *(
                np.concatenate([np.asarray(sums[name][part], np.float64) for sums in batches])
                for part in (0, 1)
            )
        )
        for name in batches[0]
        if name in NAMES
    }
    return {name: answers for name, answers in joined.items() if answers.asked.any()}


def _link_answers(ranks: Ranks, asked: np.ndarray, items: int) -> dict[str, PerItemMetric]:
    """Hits and reciprocal ranks of the items that were asked, among all items."""

    def spread(values: np.ndarray) -> np.ndarray:
        line = np.zeros(items)
        line[asked] = values
        return line

    questions = spread(np.ones(len(asked)))
    return {
        "link_hits_at_1": PerItemMetric(spread(hits_at(1, ranks)), questions),
        "link_hits_at_10": PerItemMetric(spread(hits_at(10, ranks)), questions),
        "link_mrr": PerItemMetric(spread(reciprocal_rank(ranks)), questions),
    }


def _join(questions: Iterable[Questions]) -> Questions:
    targets, known = zip(*questions, strict=True)
    width = max(ids.shape[1] for ids in known)
    return Questions(np.concatenate(targets), np.concatenate([_widen(ids, width) for ids in known]))


def _widen(ids: np.ndarray, width: int) -> np.ndarray:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=UNKNOWN)
