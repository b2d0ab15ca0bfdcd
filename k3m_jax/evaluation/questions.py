"""Questions about items: their candidates, and where the true values stand among them.

Two measures of the same scores. *Question answering*: the true value among 100 candidates, the
false values of the same property first, then values of other properties; other true values are no
candidates. *Completion*: all values of the property in the data set, the true ones as a set.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.value_vocabulary import ValueVocabulary, normalised
from k3m_jax.metrics import task_metrics
from k3m_jax.metrics.bootstrap import Statistic
from k3m_jax.metrics.ranking import Ranks, hits_at, ranks, reciprocal_rank
from k3m_jax.modalities.knowledge import Candidates, candidates
from k3m_jax.tasks.examples import TaskDataset, item_generator

CANDIDATES = 100  # of question answering


class CandidateSet:
    """Candidates of properties: all values of each, adjacent, then some of other properties.

    Attributes:
      pairs: (property, value) by row.
      ids: [rows] of the table of values; -1 where the property has no such value.
    """

    def __init__(self, table: ValueVocabulary, asked: Sequence[tuple[int, ...]]):
        """`asked`: for each question all true values of its property, `Examples.known`."""
        most: dict[tuple[int, int], int] = {}  # property's range of ids -> most true values
        for known in asked:
            ids = table.range(table.pairs[known[0]][0])
            most[ids] = max(most.get(ids, 0), len(known))
        values = {normalised(value): value for _, value in table.pairs}
        self.pairs: list[tuple[str, str]] = []
        self._blocks: dict[tuple[int, int], tuple[int, int]] = {}
        found = []
        for ids in sorted(most):
            own, (name, _) = table.pairs[slice(*ids)], table.pairs[ids[0]]
            lacking = CANDIDATES - 1 - (len(own) - most[ids])
            others = _others(name, own, values)[: max(lacking, 0)]
            first = len(self.pairs)
            self.pairs += [*own, *((name, value) for value in others)]
            self._blocks[ids] = first, len(self.pairs)
            found += [np.arange(*ids), np.full(len(others), -1)]
        self.ids = np.concatenate(found)
        self._table = table

    def write(self, tokenizer: Tokenizer, length: int) -> Candidates:
        """The candidates as the model reads them, cut to L = `length` tokens."""
        return candidates(self.pairs, tokenizer, length)

    def block(self, known: Sequence[int]) -> tuple[int, int]:
        """Rows [first, end) of the property that `known` are values of, its own values first."""
        return self._blocks[self._table.range(self._table.pairs[known[0]][0])]


class CandidateIndex(NamedTuple):
    """All questions' candidates in one line, of question q from offsets[q] to offsets[q + 1]."""

    rows: np.ndarray  # [P] of `Texts`
    question: np.ndarray  # [P]
    offsets: np.ndarray  # [Q + 1]
    target: np.ndarray  # [Q] place of the value that question answering asks for
    ranked: np.ndarray  # bool [P]: the candidates of question answering
    own: np.ndarray  # bool [P]: values of the property
    true: np.ndarray  # [A] places of all true values
    true_question: np.ndarray  # [A]

    @classmethod
    def of(cls, examples: Sequence[TaskDataset], texts: CandidateSet) -> "CandidateIndex":
        """The questions of all data sets, one after the other."""
        parts: list[list[np.ndarray]] = []
        end = 0
        for found in examples:
            for row, item, known in zip(found.rows, found.items, found.known, strict=True):
                start, stop = texts.block(known)
                rows = np.arange(start, stop)
                ids = texts.ids[rows]
                true = np.isin(ids, known)
                rng = item_generator(f"{item}/{row.asked}")
                false_own = rng.permutation(np.flatnonzero(~true & (ids >= 0)))
                false = np.concatenate([false_own, np.flatnonzero(ids < 0)])[: CANDIDATES - 1]
                ranked = np.zeros(len(rows), bool)
                target = int(np.flatnonzero(ids == row.label)[0])
                ranked[[target, *false]] = True
                parts.append(
                    [rows, ranked, ids >= 0, end + np.array([target]), end + np.flatnonzero(true)]
                )
                end += len(rows)
        rows, ranked, own, target, true = (np.concatenate(p) for p in zip(*parts, strict=True))
        lengths = [len(part[0]) for part in parts]
        questions = np.arange(len(parts))
        return cls(
            rows,
            np.repeat(questions, lengths),
            np.concatenate([[0], np.cumsum(lengths)]),
            target,
            ranked,
            own,
            true,
            np.repeat(questions, [len(part[4]) for part in parts]),
        )

    def statistics(self, scores: np.ndarray) -> Mapping[str, Statistic]:
        """The metrics of scores [P], higher is better."""
        answering = self._ranks(scores, self.target, np.arange(len(self.target)), self.ranked)
        completion = self._ranks(scores, self.true, self.true_question, self.own)
        questions = len(self.target)
        values = {f"rank@{k}": hits_at(k, answering) for k in (1, 5, 10)}
        values["mrr"] = reciprocal_rank(answering)
        values |= {
            f"completion_hits@{k}": task_metrics.set_hits_at(
                k, completion, self.true_question, questions
            )
            for k in (1, 5, 10)
        }
        return {name: _mean_of(x) for name, x in values.items()}

    def _ranks(
        self, scores: np.ndarray, answers: np.ndarray, question: np.ndarray, counted: np.ndarray
    ) -> Ranks:
        """Where the answers, places, stand among the counted places of their questions."""
        found = []
        for place, q in zip(answers, question, strict=True):
            block = slice(self.offsets[q], self.offsets[q + 1])
            others = counted[block].astype(np.int64)
            others[place - self.offsets[q]] = 0
            found.append(ranks(scores[[place]], scores[None, block], others[None]))
        better, tied = zip(*found, strict=True)
        return Ranks(np.concatenate(better), np.concatenate(tied))


def _mean_of(values: np.ndarray) -> Statistic:
    return lambda weights: task_metrics.mean(values, weights)


def _others(name: str, own: Sequence[tuple[str, str]], values: Mapping[str, str]) -> list[str]:
    """Values that the property has not, in an order of its own."""
    taken = {normalised(value) for _, value in own}
    foreign = [values[key] for key in sorted(values) if key not in taken]
    return [foreign[i] for i in item_generator(name).permutation(len(foreign))]
