"""All (property, value) pairs of the data, as link prediction ranks them.

Spellings that differ in case, width or white space alone are one pair, with one id.
"""

import functools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

UNKNOWN = -1  # the id of a pair that the vocabulary lacks, and the target where there is no query


@functools.lru_cache(1 << 16)
def normalised(text: str) -> str:
    """What two spellings of one text have in common."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


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


def _most_frequent(spellings: Mapping[str, int]) -> str:
    return min(spellings, key=lambda s: (-spellings[s], s))
