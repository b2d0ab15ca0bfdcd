"""Questions: the value of a hidden property, among candidates."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary, normalised
from k3m_jax.metrics import hits_at, mean, reciprocal_rank, set_hits_at
from k3m_jax.modalities.base import Array, Row
from k3m_jax.objectives.base import Batch, Sum, weighted_sum
from k3m_jax.objectives.link_prediction import LinkPrediction, LinkTarget, energy
from k3m_jax.settings import Task
from k3m_jax.tasks import base
from k3m_jax.tasks.base import Statistics, TaskSplit
from k3m_jax.tasks.candidates import Candidates, item_generator
from k3m_jax.tasks.trivial_baselines import NaiveBayes, Scores, SeenSplit, nearest

CANDIDATES = 100  # that a target is ranked among, itself included
NEVER = -1e30  # the score of what is no candidate; -inf would make gradients NaN


@dataclasses.dataclass(frozen=True)
class QuestionObjective(LinkPrediction):
    """The queried triple among false ones, scored by the task's head."""

    name: ClassVar[str] = "task"
    weight_arrays: ClassVar[tuple[str, ...]] = ("label_weights",)

    @staticmethod
    def losses(scores: jax.Array, usable: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
        """Softmax over an item's candidates [I, J], the true one first; whether that is best.

        `usable` [I, J - 1] is 0 where a candidate can't serve as a false one. Without a false
        candidate an item weighs nothing.
        """
        weights = weights * (usable > 0).any(1)
        false = jnp.where(usable > 0, scores[:, 1:], NEVER)
        loss = jax.nn.logsumexp(jnp.concatenate([scores[:, :1], false], 1), 1) - scores[:, 0]
        right = (scores[:, 0] > false.max(1)).astype(jnp.float32)
        return weighted_sum(loss, weights), weighted_sum(right, weights)

    @property
    def arrays(self) -> dict[str, Array]:
        links = super().arrays
        del links["link_items"], links["link_item_weights"]
        return {"label_weights": base.LABEL_WEIGHTS, **links}

    def write(self, row: Row, target: LinkTarget, encoded: Mapping[str, Any]) -> None:
        """A question needs something to choose from."""
        super().write(row, target, encoded)
        row["label_weights"][...] = target.candidates is not None and len(target.candidates) > 1

    def write_group(self, *args: Any) -> None:
        """Nothing depends on other rows."""

    def evaluation_arrays(self, examples: Any) -> dict[str, np.ndarray]:
        """None: tasks are measured on embeddings."""
        return {}

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        arrays = batch["link_value_weights"], batch["label_weights"]
        return dict(zip(("task", "task_accuracy"), self.losses(outputs, *arrays), strict=True))


class Questions(base.DownstreamTask):
    """Scores [P] of all candidates of all questions, query after query.

    *Question answering* (Rank@k, MRR) ranks the target among 100 candidates: the false values of
    its property first, then values of other properties. *Completion* (Hits@k) ranks all true
    values, as a set, among all values of the property.
    """

    name = "questions"
    needs = "items with triples"
    objective = QuestionObjective

    @classmethod
    def examples(
        cls, task: Task, shards: ShardSet, split: str, vocabulary: ValueVocabulary
    ) -> base.Examples:
        for index, record in enumerate(shards.facts(split)):
            if reason := base.why_left_out(task, record):
                yield reason
                continue
            true = collections.defaultdict(set)
            for name, value in record.triples:
                if (number := vocabulary.id(name, value)) != UNKNOWN:
                    true[normalised(name)].add(number)
            queryable = {
                name: tuple(sorted(ids))
                for name, ids in true.items()
                if len(ids) < len(range(*vocabulary.range(name)))
            }
            yield from ["with nothing but true values"] * (len(true) - len(queryable))
            rng, facts = item_generator(record.id), frozenset().union(*true.values())
            # Drawn for all of an item's properties, so that a limit changes none that it leaves.
            targets = {name: known[rng.integers(len(known))] for name, known in queryable.items()}
            order = rng.permutation(len(queryable))[: task.questions or None]
            for name in (list(queryable)[i] for i in sorted(order)):
                row = base.TaskRow.of(task, index, record, {name}, query_property=name, facts=facts)
                yield (row._replace(label=targets[name], known=queryable[name]),)

    def __init__(self, head: Any, embedder: Any, vocabulary: Any, splits: Any, scale=np.asarray):
        super().__init__(head)
        self._vocabulary, splits = vocabulary, dict.fromkeys(splits)
        rows = [row for split in splits for (row,) in split.examples]
        candidates = Candidates(
            vocabulary,
            [row.label for row in rows],
            [row.known for row in rows],
            embedder.tokenizer,
            embedder.network.settings.lengths.candidate,
            names=[f"{row.id}/{row.query_property}" for row in rows],
            size=CANDIDATES,
        )
        ends = itertools.accumulate((len(split.examples) for split in splits), initial=0)
        bounds = itertools.pairwise(ends)
        self.candidates = {split: candidates.take(*next(bounds)) for split in splits}
        self._encoded = embedder.candidates(candidates.texts)
        self._p, self._v = (jnp.asarray(scale(x)) for x in self._encoded)
        self._encode = jax.jit(functools.partial(head.apply, method="encode"))
        score = functools.partial(head.apply, method="score")
        self._score = jax.jit(
            lambda params, c, a, b, q, t: score(params, c[q], a[t][:, None], b[t][:, None])[:, 0]
        )

    def inputs(self, split: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """`c` [I, D]; `texts` [I, 100] of candidates, the true one first; `usable` [I, 99]."""
        found = self.candidates[split]
        texts = np.zeros((len(c), CANDIDATES), np.int32)
        usable = np.zeros((len(c), CANDIDATES - 1), np.float32)
        for row, false in enumerate(found.sample):
            texts[row, : len(false) + 1] = found.blocks[row].text[[found.target[row], *false]]
            usable[row, : len(false)] = 1
        return {"c": c, "texts": texts, "usable": usable}

    def loss(self, params: Any, batch: Mapping[str, Any]) -> Sum:
        a, b = self.head.apply(params, self._p, self._v, method="encode")
        texts = batch["texts"]
        scores = self.head.apply(params, batch["c"], a[texts], b[texts], method="score")
        return self.objective.losses(scores, batch["usable"], batch["weight"])[0]

    def scores(self, params: Any, split: TaskSplit, c: np.ndarray) -> np.ndarray:
        encoded = self._encode(params, self._p, self._v)
        score = functools.partial(self._score, params, jnp.asarray(c), *encoded)
        return np.concatenate(list(self.candidates[split].scores(score)))

    def statistics(self, split: TaskSplit, scores: np.ndarray, threshold: float) -> Statistics:
        by_query = self.candidates[split].split(scores)
        answering = self.candidates[split].target_ranks(by_query)
        completion, query = self.candidates[split].known_ranks(by_query)
        values = {f"rank@{k}": hits_at(k, answering) for k in (1, 5, 10)}
        values["mrr"] = reciprocal_rank(answering)
        for k in (1, 5, 10):
            values[f"completion_hits@{k}"] = set_hits_at(k, completion, query)
        return {name: functools.partial(mean, x) for name, x in values.items()}

    def zero_shot_statistics(self, split: TaskSplit, c: np.ndarray, norm: str) -> Statistics:
        pair = jax.jit(lambda c, p, v, q, t: -energy(c[q], p[t], v[t], norm))
        score = functools.partial(pair, *map(jnp.asarray, (c, *self._encoded)))
        scores = np.concatenate(list(self.candidates[split].scores(score)))
        return {f"energy {k}": x for k, x in self.statistics(split, scores, 0.0).items()}

    def trivial_baselines(self, train: SeenSplit, measured: SeenSplit) -> Scores:
        """From the values that training items with a similar title or picture have."""
        rows = [row for (row,) in train.split.examples]
        by_item = itertools.groupby(range(len(rows)), lambda row: rows[row][:2])
        first = [next(of_item) for _, of_item in by_item]
        words, facts = [train.words[row] for row in first], [rows[row].facts for row in first]
        having = collections.defaultdict(list)  # value -> training items
        for item, values in enumerate(facts):
            for value in values:
                having[value].append(item)

        @functools.cache
        def bayes(start: int, end: int) -> NaiveBayes:
            pairs = [(item, value - start) for value in range(start, end) for item in having[value]]
            return NaiveBayes([words[i] for i, _ in pairs], [v for _, v in pairs], end - start)

        found, in_training = [], self._vocabulary.counts
        near = nearest(train.pixels[first], measured.pixels)
        blocks = self.candidates[measured.split].blocks
        for title, item, block in zip(measured.words, near, blocks, strict=True):
            own = block.ids != UNKNOWN
            # What the property never has comes after all that it has.
            counts = np.where(own, in_training[block.ids], -1.0)
            by_title = np.full(len(own), -np.inf)
            by_title[own] = bayes(int(block.ids[0]), int(block.ids[0]) + own.sum())(title)
            by_picture = counts / (in_training.max(initial=0) + 1)
            if item >= 0:
                by_picture += np.isin(block.ids, list(facts[item]))
            found.append((counts, by_title, by_picture))
        return tuple(map(np.concatenate, zip(*found, strict=True)))
