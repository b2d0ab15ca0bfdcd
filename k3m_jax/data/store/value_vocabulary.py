"""All (property, value) pairs of the data, as link prediction queries and ranks them.

Spellings that differ in case, width or white space alone are one pair, with one id.
"""

import functools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

UNKNOWN = -1  # the id of a pair that the vocabulary lacks, and the target where there is no query


@functools.lru_cache(1 << 16)
def normalised(text: str) -> str:
    """What two spellings of one text have in common."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Query(NamedTuple):
    """A triple to predict; all are ids of the value vocabulary."""

    target: int
    known: tuple[int, ...]  # all values of its property that are true of the item, ascending
    false: tuple[int, ...]  # false values of the property; fewer than wanted where few exist


class ValueVocabulary:
    """Every (property, value) pair of the data, numbered so that a property's values are adjacent.

    They stand from the most to the least frequent in training: `counts` by id, int64 [pairs].
    `pairs` are in their most frequent spelling, that of the true candidate too: an item's own would
    give it away.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], counts: Sequence[int]):
        """Use `merge`; properties must be contiguous, and their counts descending."""
        self.pairs = tuple(pairs)
        self.counts = np.asarray(counts, np.int64)
        self._ids: dict[tuple[str, str], int] = {}
        self._ranges: dict[str, tuple[int, int, int]] = {}  # start, end of those of train, end
        for index, (name, value) in enumerate(self.pairs):
            key = normalised(name)
            self._ids[key, normalised(value)] = index
            start, trained, _ = self._ranges.get(key, (index, index, index))
            self._ranges[key] = start, index + 1 if self.counts[index] else trained, index + 1

    @classmethod
    def merge(cls, tables: Iterable[Mapping[str, Mapping[str, int]]]) -> Self:
        """One of several data sets' tables (property -> value -> items of train that have it)."""
        spellings = defaultdict(Counter)  # of properties
        values = defaultdict(lambda: defaultdict(Counter))  # spellings of their values
        for table in tables:
            for name, counts in table.items():
                spellings[normalised(name)][name] += sum(counts.values())
                for value, count in counts.items():
                    values[normalised(name)][normalised(value)][value] += count
        pairs, totals = [], []
        for key in sorted(values):
            name = _most_frequent(spellings[key])
            ranked = [(s.total(), _most_frequent(s)) for s in values[key].values()]
            for count, value in sorted(ranked, key=lambda r: (-r[0], r[1])):
                pairs.append((name, value))
                totals.append(count)
        return cls(pairs, totals)

    def __len__(self) -> int:
        return len(self.pairs)

    def id(self, name: str, value: str) -> int:
        """The id of a pair in any spelling; UNKNOWN (-1) where the vocabulary lacks it."""
        return self._ids.get((normalised(name), normalised(value)), UNKNOWN)

    def range(self, name: str) -> tuple[int, int]:
        """Ids [start, end) of all values of a property."""
        return self._ranges[normalised(name)][::2]

    def train_range(self, name: str) -> tuple[int, int]:
        """Ids [start, end) of those values of a property that training items have."""
        return self._ranges[normalised(name)][:2]

    def sample_query(
        self, triples: Sequence[int], negatives: int, rng: np.random.Generator
    ) -> Query | None:
        """Draws the triple of an item to query, by the ids of its `triples`; None without any.

        False values are drawn, without replacement, among those of training items: one that only
        held-out items have would never be seen as true, and the model would learn to rule it out.
        """
        askable = [index for index in triples if index != UNKNOWN]
        if not askable:
            return None
        target = askable[rng.integers(len(askable))]
        name, _ = self.pairs[target]
        start, end = self.range(name)
        known = tuple(sorted({index for index in askable if start <= index < end}))
        start, end = self.train_range(name)
        true = [index for index in known if start <= index < end]
        others = end - start - len(true)
        false = start + rng.choice(others, min(negatives, others), replace=False) if others else []
        # Drawn as if the true ones were not there, then stepped over, in ascending order.
        for index in true:
            false = [f + (f >= index) for f in false]
        return Query(target, known, tuple(map(int, false)))

    def sample_other_property_values(
        self, target: int, count: int, rng: np.random.Generator
    ) -> list[tuple[str, str]]:
        """Draws at most `count` pairs of the queried property and a value of others alone."""
        name, _ = self.pairs[target]
        drawn = (self.pairs[index][1] for index in rng.integers(len(self), size=4 * count))
        found = {normalised(value): (name, value) for value in drawn}
        return [pair for pair in found.values() if self.id(*pair) == UNKNOWN][:count]


def _most_frequent(spellings: Mapping[str, int]) -> str:
    return min(spellings, key=lambda s: (-spellings[s], s))
