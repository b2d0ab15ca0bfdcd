"""Link prediction's questions: which triple of an item is asked for, and what is false beside it.

Two spellings are one fact where they differ in case, width or white space alone: the table holds
them as one pair, so that "the same pair" is an equal id everywhere, in hiding, in excluding what is
true, and in ranking.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

UNKNOWN = -1  # the id of a pair that the table lacks, and of a question not asked


@functools.lru_cache(1 << 16)
def normalised(text: str) -> str:
    """What two spellings of one text have in common."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class ValueVocabulary:
    """Every (property, value) pair of the data, numbered so that a property's values are adjacent.

    Among them they stand from the most to the least frequent in training; those that only held-out
    items have come last.

    Attributes:
      pairs: (property, value) by id, in the most frequent spelling. All candidates are written so,
        the true one too: an item's own spelling would tell it from the others.
      counts: training items that have the pair, by id: int64 [pairs].
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], counts: Sequence[int]):
        """Use `merge`; properties must be contiguous, and their counts descending."""
        self.pairs = tuple(pairs)
        self.counts = np.asarray(counts, np.int64)
        self._ids: dict[tuple[str, str], int] = {}
        self._ranges: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        for index, (name, value) in enumerate(self.pairs):
            key = normalised(name)
            self._ids[key, normalised(value)] = index
            start, _ = self._ranges.get(key, (index, index))
            self._ranges[key] = start, index + 1
            if self.counts[index]:
                self._seen[key] = start, index + 1

    @classmethod
    def merge(cls, tables: Iterable[Mapping[str, Mapping[str, int]]]) -> Self:
        """One table of several data sets' (property -> value -> items of train that have it)."""
        spellings: dict[str, dict[str, int]] = {}  # of properties
        values: dict[str, dict[str, dict[str, int]]] = {}  # and of their values
        for table in tables:
            for name, counts in table.items():
                key = normalised(name)
                _add(spellings.setdefault(key, {}), name, sum(counts.values()))
                of_property = values.setdefault(key, {})
                for value, count in counts.items():
                    _add(of_property.setdefault(normalised(value), {}), value, count)
        pairs, totals = [], []
        for key in sorted(values):
            name = _most_frequent(spellings[key])
            ranked = [(sum(s.values()), _most_frequent(s)) for s in values[key].values()]
            for count, value in sorted(ranked, key=lambda r: (-r[0], r[1])):
                pairs.append((name, value))
                totals.append(count)
        return cls(pairs, totals)

    def __len__(self) -> int:
        return len(self.pairs)

    def id(self, name: str, value: str) -> int:
        """The id of a pair in any spelling; UNKNOWN (-1) where the table lacks it."""
        return self._ids.get((normalised(name), normalised(value)), UNKNOWN)

    def range(self, name: str) -> tuple[int, int]:
        """Ids [start, end) of all values of a property."""
        return self._ranges[normalised(name)]

    def seen(self, name: str) -> tuple[int, int]:
        """Ids [start, end) of those values of a property that training items have."""
        return self._seen.get(normalised(name), (0, 0))


@dataclasses.dataclass(frozen=True)
class Query:
    """A triple asked for; all are ids of the table."""

    target: int
    known: tuple[int, ...]  # all values of the asked property that are true of the item, ascending
    false: tuple[int, ...]  # false values of the asked property; fewer than wanted where few exist


def sample_query(
    triples: Sequence[int], table: ValueVocabulary, negatives: int, rng: np.random.Generator
) -> Query | None:
    """Draws the triple to ask an item for, and false values for it.

    The false values are drawn, without replacement, among those that training items have: one that
    only held-out items have would be seen as false alone, and the model would learn to rule it out.

    Args:
      triples: table ids of all triples of the item.
      table: of the data set.
      negatives: false values wanted.
      rng: what it is drawn by.

    Returns:
      None where the item has no triple that the table knows.
    """
    askable = [index for index in triples if index != UNKNOWN]
    if not askable:
        return None
    target = askable[rng.integers(len(askable))]
    name, _ = table.pairs[target]
    start, end = table.range(name)
    known = tuple(sorted({index for index in askable if start <= index < end}))
    start, end = table.seen(name)
    true = [index for index in known if start <= index < end]
    others = end - start - len(true)
    false = start + rng.choice(others, min(negatives, others), replace=False) if others else []
    # Drawn as if the true ones were not there; stepping over each of them in ascending order puts
    # them back, without listing a property's values, of which there may be 100,000.
    for index in true:
        false = [f + (f >= index) for f in false]
    return Query(target, known, tuple(map(int, false)))


def sample_other_property_values(
    target: int, table: ValueVocabulary, count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draws pairs of the asked property and a value that other properties alone have.

    Returns:
      At most `count` (property, value) pairs, fewer where most values are the property's own.
    """
    name, _ = table.pairs[target]
    drawn = (table.pairs[index][1] for index in rng.integers(len(table), size=4 * count))
    found = {normalised(value): (name, value) for value in drawn}
    return [pair for pair in found.values() if table.id(*pair) == UNKNOWN][:count]


def sample_other_items(
    targets: Sequence[int],
    facts: Sequence[frozenset[int] | None],
    products: Sequence[str],
    count: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Rows of one group that each row can take as another product without the asked value.

    Args:
      targets: the asked pair of each row; UNKNOWN where nothing is asked.
      facts: all pairs of each row, those shown and those not; None is a row of padding.
      products: what product each row is an item of.
      count: O, how many rows are wanted.
      rng: what the rows are drawn by.

    Returns:
      For each row at most `count` others, without repetition.
    """
    orders = rng.random((len(targets), len(targets))).argsort(1).tolist()
    return [
        [
            other
            for other in order
            if facts[other] is not None
            and products[other] != product
            and target not in facts[other]
        ][:count]
        if target != UNKNOWN
        else []
        for target, product, order in zip(targets, products, orders, strict=True)
    ]


def _add(counts: dict[str, int], key: str, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


def _most_frequent(spellings: Mapping[str, int]) -> str:
    return min(spellings, key=lambda s: (-spellings[s], s))
