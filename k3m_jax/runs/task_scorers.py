"""How each task reads embeddings: what its head learns from, and what its scores are worth.

The one table of what differs between the tasks. A judge knows no model: it is given embeddings, and
of candidates the encoded properties and values.
"""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.questions import CANDIDATES, CandidateIndex, CandidateSet
from k3m_jax.metrics import task_metrics
from k3m_jax.metrics.bootstrap import Statistic
from k3m_jax.model.task_heads import Head
from k3m_jax.objectives.downstream import (
    candidate_cross_entropy,
    class_cross_entropy,
    pair_cross_entropy,
)
from k3m_jax.objectives.link_prediction import energy
from k3m_jax.objectives.sums import Sum
from k3m_jax.tasks import trivial_baselines
from k3m_jax.tasks.split import TaskSplit

Arrays = Mapping[str, Any]
PLACES = 1 << 14  # of candidates scored at a time


class CandidateEncoder(NamedTuple):
    """What a judge of questions needs besides embeddings."""

    splits: Sequence[TaskSplit]  # all that it will judge
    table: ValueVocabulary
    encode: Callable[
        [CandidateSet], tuple[np.ndarray, np.ndarray]
    ]  # p and v of candidates [rows, D]
    scale: Callable[[np.ndarray], np.ndarray]  # of p and v, as of embeddings, for the head


class TaskScorer(abc.ABC):
    """A task's way from embeddings to metrics.

    Attributes:
      head: of the task.
    """

    needs_threshold = False  # whether metrics want a threshold, which validation examples tell

    def __init__(self, head: Head):
        self.head = head
        self._apply = jax.jit(head.apply)

    @abc.abstractmethod
    def inputs(self, asked: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """What the head learns from, [I, …] each, of the embeddings of all rows; `c` is one."""

    @abc.abstractmethod
    def loss(self, params: Any, batch: Arrays) -> Sum:
        """Of the head on some of `inputs`, and of their `weight`."""

    def scores(self, params: Any, asked: TaskSplit, c: np.ndarray) -> np.ndarray:
        """What the head says of the examples, as `statistics` wants it."""
        return np.asarray(self._apply(params, self.inputs(asked, c)["c"]))

    @abc.abstractmethod
    def statistics(
        self, asked: TaskSplit, scores: np.ndarray, threshold: float
    ) -> Mapping[str, Statistic]:
        """The metrics by name."""

    def zero_shot_metrics(
        self, asked: TaskSplit, c: np.ndarray, norm: str
    ) -> Mapping[str, Mapping[str, Statistic]]:
        """Metrics that embeddings have by themselves, by what they are called; here none."""
        return {}

    @abc.abstractmethod
    def floors(
        self,
        train: TaskSplit,
        known: trivial_baselines.RawFeatures,
        asked: TaskSplit,
        seen: trivial_baselines.RawFeatures,
    ) -> trivial_baselines.Scores:
        """The floors' scores, from the surfaces of training and of asked examples."""


class Classification(TaskScorer):
    """Accuracy; an item of a class that training has not counts as wrong."""

    def inputs(self, asked: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """`c` [I, D] and `label` [I]."""
        return {"c": c, "label": asked.labels}

    def loss(self, params: Any, batch: Arrays) -> Sum:
        """Cross-entropy."""
        known = batch["weight"] * (batch["label"] >= 0)
        return class_cross_entropy(self.head.apply(params, batch["c"]), batch["label"], known)[0]

    def statistics(
        self, asked: TaskSplit, scores: np.ndarray, threshold: float
    ) -> Mapping[str, Statistic]:
        """`accuracy`, of scores [I, classes]."""
        right = (scores.argmax(1) == asked.labels).astype(np.float64)
        return {"accuracy": functools.partial(task_metrics.mean, right)}

    def floors(
        self,
        train: TaskSplit,
        known: trivial_baselines.RawFeatures,
        asked: TaskSplit,
        seen: trivial_baselines.RawFeatures,
    ) -> trivial_baselines.Scores:
        """Scores [I, classes]."""
        classes, told = len(self.head.task.classes), train.labelled
        return trivial_baselines.classification(known.take(told), train.labels[told], seen, classes)


class Alignment(TaskScorer):
    """F1 at the threshold that is best on validation pairs, and AUC.

    Several catalogues may differ in how many of their pairs are one product: telling the catalogue
    would do for a good AUC of all pairs, so there is one among pairs of a catalogue beside it.
    """

    needs_threshold = True

    def inputs(self, asked: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """`c` [I, 2, D] and `label` [I]."""
        return {"c": c.reshape(-1, 2, c.shape[-1]), "label": asked.labels}

    def loss(self, params: Any, batch: Arrays) -> Sum:
        """Cross-entropy."""
        logits = self.head.apply(params, batch["c"])
        return pair_cross_entropy(logits, batch["label"], batch["weight"])[0]

    def statistics(
        self, asked: TaskSplit, scores: np.ndarray, threshold: float
    ) -> Mapping[str, Statistic]:
        """`f1`, `auc` and, of several catalogues, `auc_within_catalogue`, of scores [I]."""
        labels, catalogues = asked.labels == 1, asked.catalogues
        found = {
            "f1": functools.partial(task_metrics.f1, scores >= threshold, labels),
            "auc": functools.partial(task_metrics.auc, scores, labels),
        }
        if catalogues.any():
            within = functools.partial(task_metrics.auc_within, catalogues, scores, labels)
            found["auc_within_catalogue"] = within
        return found

    def floors(
        self,
        train: TaskSplit,
        known: trivial_baselines.RawFeatures,
        asked: TaskSplit,
        seen: trivial_baselines.RawFeatures,
    ) -> trivial_baselines.Scores:
        """Scores [I]."""
        return trivial_baselines.alignment(known, train.labels, seen)


class Questions(TaskScorer):
    """Rank@k and MRR among 100 candidates, and completion's Hits@k among all values."""

    def __init__(self, head: Head, sight: CandidateEncoder):
        """Writes and encodes the candidates of all questions."""
        super().__init__(head)
        self._table = sight.table
        known = [ids for asked in sight.splits for e in asked.examples for ids in e.known]
        self._texts = CandidateSet(sight.table, known)
        self._candidates = sight.encode(self._texts)
        self._p, self._v = (jnp.asarray(sight.scale(x)) for x in self._candidates)
        self._places: dict[TaskSplit, CandidateIndex] = {}
        self._encode = jax.jit(functools.partial(head.apply, method="encode"))
        score = functools.partial(head.apply, method="score")
        self._score = jax.jit(
            lambda params, c, a, b, q, r: score(params, c[q], a[r][:, None], b[r][:, None])[:, 0]
        )

    def places(self, asked: TaskSplit) -> CandidateIndex:
        """Of the questions' candidates."""
        if asked not in self._places:
            self._places[asked] = CandidateIndex.of(asked.examples, self._texts)
        return self._places[asked]

    def inputs(self, asked: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """`c` [I, D]; `rows` [I, 100] of candidates, the true one first; `usable` [I, 99]."""
        places = self.places(asked)
        rows = np.zeros((len(c), CANDIDATES), np.int32)
        usable = np.zeros((len(c), CANDIDATES - 1), np.float32)
        rows[:, 0] = places.rows[places.target]
        false = places.ranked.copy()
        false[places.target] = False
        chosen = np.flatnonzero(false)
        q = places.question[chosen]
        column = np.arange(len(q)) - np.searchsorted(q, q)
        rows[q, 1 + column], usable[q, column] = places.rows[chosen], 1
        return {"c": c, "rows": rows, "usable": usable}

    def loss(self, params: Any, batch: Arrays) -> Sum:
        """Cross-entropy among the candidates."""
        a, b = self.head.apply(params, self._p, self._v, method="encode")
        rows = batch["rows"]
        scores = self.head.apply(params, batch["c"], a[rows], b[rows], method="score")
        return candidate_cross_entropy(scores, batch["usable"], batch["weight"])[0]

    def scores(self, params: Any, asked: TaskSplit, c: np.ndarray) -> np.ndarray:
        """Of all candidates, [P]."""
        a, b = self._encode(params, self._p, self._v)
        return self._in_chunks(functools.partial(self._score, params), asked, c, a, b)

    def statistics(
        self, asked: TaskSplit, scores: np.ndarray, threshold: float
    ) -> Mapping[str, Statistic]:
        """Of scores [P]."""
        return self.places(asked).statistics(scores)

    def floors(
        self,
        train: TaskSplit,
        known: trivial_baselines.RawFeatures,
        asked: TaskSplit,
        seen: trivial_baselines.RawFeatures,
    ) -> trivial_baselines.Scores:
        """Scores [P]."""
        first, facts, end = [], [], 0  # of each item's rows, and what is true of the item
        for shards, found in zip(train.shard_sets, train.examples, strict=True):
            source = shards.source(train.split)
            _, rows = np.unique([row.item for row in found.rows], return_index=True)
            first += (end + rows).tolist()
            items = (source[found.rows[row].item] for row in rows)
            facts += [trivial_baselines.facts_of(item, self._table) for item in items]
            end += len(found.rows)
        known = known.take(np.array(first))
        places = self.places(asked)
        return trivial_baselines.questions(known, facts, seen, places, self._texts, self._table)

    def zero_shot_metrics(
        self, asked: TaskSplit, c: np.ndarray, norm: str
    ) -> Mapping[str, Mapping[str, Statistic]]:
        """By the energies of link prediction: what K3M says with no head at all."""
        pair = jax.jit(lambda c, p, v, q, r: -energy(c[q], p[r], v[r], norm))
        scores = self._in_chunks(pair, asked, c, *map(jnp.asarray, self._candidates))
        return {"energy": self.statistics(asked, scores, 0.0)}

    def _in_chunks(
        self, score: Any, asked: TaskSplit, c: np.ndarray, *candidates: Any
    ) -> np.ndarray:
        places, c = self.places(asked), jnp.asarray(c)
        found = []
        for start in range(0, len(places.rows), PLACES):
            q, r = (x[start : start + PLACES] for x in (places.question, places.rows))
            lack = PLACES - len(q)  # of one size, so that nothing is compiled anew
            placed = (np.pad(x, (0, lack)).astype(np.int32) for x in (q, r))
            found.append(np.asarray(score(c, *candidates, *placed))[: len(q)])
        return np.concatenate(found)


def make_scorer(head: Head, sight: CandidateEncoder) -> TaskScorer:
    """The judge of the head's task."""
    return _JUDGES[head.task.name](head, sight)


_JUDGES: dict[str, Callable[[Head, CandidateEncoder], TaskScorer]] = {
    "classification": lambda head, _: Classification(head),
    "alignment": lambda head, _: Alignment(head),
    "questions": Questions,
}
