"""What the second pass makes known: of all records together, what `shards.BuildInfo` tells."""

import collections
import hashlib
import json
from typing import Any

import numpy as np

from k3m_jax.data.build.record_builder import BuiltRecord
from k3m_jax.data.catalog.pairs import PairedItem
from k3m_jax.data.input.tokenizer import count_words
from k3m_jax.data.records import RejectedLine


class DatasetStatistics:
    """Sums up outcomes in any order, and parts of a catalogue in any order.

    Attributes:
      products: items by split.
      missing: items without a picture, title or triples.
      repaired: what was put right on the way, by kind.
      rejects: lines of which no record could be made.
      values: property -> value -> items of train that have it.
      fingerprint: of all records and their splits.
      regions, classes: the most that a picture has, of a detector.
      paired: those of the items `in_pairs` that are stored, by id.
    """

    def __init__(self, count_titles: bool, in_pairs: frozenset[str] = frozenset()):
        """`count_titles` is whether `words` will be asked for."""
        self._in_pairs, self.paired = in_pairs, dict[str, PairedItem]()
        self._count_titles = count_titles
        self._title_words = collections.Counter()
        self.products = collections.Counter()
        self.missing = collections.Counter(picture=0, title=0, triples=0)
        self.repaired = collections.Counter()
        self.rejects: list[RejectedLine] = []
        self.values = collections.defaultdict(collections.Counter)
        self.fingerprint = self.regions = self.classes = 0

    def add(self, outcome: BuiltRecord | RejectedLine) -> None:
        """Counts in what became of one line."""
        if isinstance(outcome, RejectedLine):
            self.rejects.append(outcome)
            return
        record, train = outcome.record, outcome.split == "train"
        regions = "boxes" in record
        self.products[outcome.split] += 1
        self.missing.update(
            {
                "picture": not (len(record["boxes"]) if regions else record["picture"]),
                "title": not record["title"],
                "triples": not record["values"],
            }
        )
        self.repaired.update(outcome.notes)
        if record["id"] in self._in_pairs:
            told = (record[key] for key in ("product", "category", "source"))
            self.paired[record["id"]] = PairedItem(outcome.split, outcome.picture, *told)
        for property_, value in zip(record["properties"], record["values"], strict=True):
            self.values[property_][value] += train
        if self._count_titles and train:
            self._title_words.update(count_words([record["title"]]))
        self.fingerprint = (self.fingerprint + _digest(outcome.split, record)) % 2**256
        if regions:
            self.regions = max(self.regions, len(record["boxes"]))
            self.classes = max(self.classes, int(record["class_ids"].max(initial=-1)) + 1)

    def merge(self, other: "DatasetStatistics") -> None:
        """Counts in what became of another part of the catalogue."""
        for mine, theirs in (
            (self._title_words, other._title_words),
            (self.products, other.products),
            (self.missing, other.missing),
            (self.repaired, other.repaired),
            *((self.values[name], counts) for name, counts in other.values.items()),
        ):
            mine.update(theirs)  # a counter's update adds, and keeps what counts 0
        self.rejects += other.rejects
        self.paired |= other.paired
        self.fingerprint = (self.fingerprint + other.fingerprint) % 2**256
        self.regions = max(self.regions, other.regions)
        self.classes = max(self.classes, other.classes)

    def words(self) -> collections.Counter[str]:
        """How often each word stands in the titles and triples of train."""
        words = collections.Counter(self._title_words)
        for name, values in self.values.items():
            for text, count in ((name, sum(values.values())), *values.items()):
                for word, times in count_words([text]).items():
                    words[word] += count * times
        return +words


def _digest(split: str, record: dict[str, Any]) -> int:
    """A hash of one record's content; their sum is a hash of the set."""
    digest = hashlib.sha256(split.encode())
    for key, value in sorted(record.items()):
        data = (
            value
            if isinstance(value, bytes)
            else (value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode())
        )
        digest.update(f"\0{key}\0{len(data)}\0".encode() + data)
    return int.from_bytes(digest.digest(), "big")
