"""What the first pass over a catalogue finds: its splits, a sample of train, the useless lines."""

import hashlib
import heapq
from typing import NamedTuple

from k3m_jax.data.catalog.readers import RawLine
from k3m_jax.data.records import Product, RejectedLine, Splitting

SAMPLED = 1000  # train products that the codebook and the sizes of regions are taken from


class ParsedLine(NamedTuple):
    """A line that is a product."""

    raw: RawLine
    product: Product


class CatalogScan:
    """Sums up lines in any order, and parts of a catalogue in any order.

    Attributes:
      splits: names of those that products are in.
      usable: how many lines are products.
      rejects: those that are not.
    """

    def __init__(self, splitting: Splitting):
        self._splitting = splitting
        self._sample: list[tuple[int, ParsedLine]] = []  # a heap, the largest hash of an id on top
        self.splits: set[str] = set()
        self.usable = 0
        self.rejects: list[RejectedLine] = []

    def add(self, line: ParsedLine | RejectedLine) -> None:
        """Counts one line in; a product's id must be new."""
        if isinstance(line, RejectedLine):
            self.rejects.append(line)
            return
        self.usable += 1
        split = self._splitting(line.product)
        self.splits.add(split)
        if split == "train":
            self._keep(-int.from_bytes(hash_of(line.product.id), "big"), line)

    def merge(self, other: "CatalogScan") -> None:
        """Counts in what another part of the catalogue holds."""
        self.splits |= other.splits
        self.usable += other.usable
        self.rejects += other.rejects
        for entry in other._sample:
            self._keep(*entry)

    def sample(self) -> list[ParsedLine]:
        """The train products whose ids have the smallest hashes: the same in any order of lines."""
        return [found for _, found in sorted(self._sample, key=lambda entry: -entry[0])]

    def _keep(self, order: int, found: ParsedLine) -> None:
        add = heapq.heappush if len(self._sample) < SAMPLED else heapq.heappushpop
        add(self._sample, (order, found))


def hash_of(item: str) -> bytes:
    """Stands for an item's id where all of them must fit into memory."""
    return hashlib.blake2b(item.encode(), digest_size=16).digest()
