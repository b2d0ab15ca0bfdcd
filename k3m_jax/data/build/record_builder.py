"""From a raw line of a catalog to a stored record, and what all records together are like.

Worker processes and Apache Beam map the one and sum up the other.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import types
from typing import Any, Self

import numpy as np

from k3m_jax.data.catalog.readers import CatalogReader, RawLine
from k3m_jax.data.catalog.region_features import RegionReader, region_limit
from k3m_jax.data.input.tokenizer import count_words
from k3m_jax.data.records import (
    InvalidRecordError,
    Product,
    Record,
    RejectedLine,
    Splitting,
    check_strict,
)
from k3m_jax.data.store import codebook as codebooks
from k3m_jax.data.store.pairs import PairedItem
from k3m_jax.modalities import REGISTRY, pixels
from k3m_jax.modalities.picture import Layout, Picture


@dataclasses.dataclass(frozen=True)
class BuiltRecord:
    """A usable record, and what was repaired on the way."""

    split: str
    record: Record
    repairs: tuple[str, ...]  # "kind" or "kind: detail"
    picture: str = ""  # path of the one that is stored, relative to the catalog's folder
    place: tuple[str, int] = ("", 0)  # file and line

    def repair_lines(self) -> str:
        """Its lines of repairs.jsonl."""
        place = {"id": self.record.id, "file": self.place[0], "line": self.place[1]}
        split = (repair.partition(": ") for repair in self.repairs)
        lines = (place | {"repair": kind, "detail": detail} for kind, _, detail in split)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


@dataclasses.dataclass(frozen=True)
class RecordBuilder:
    """From a line to a stored record; pure, pickles."""

    catalog: CatalogReader
    image_size: int
    patch_size: int
    codebook: codebooks.Codebook | None = None  # None with regions, or where classes aren't needed
    regions: RegionReader | None = None  # None with patches
    splitting: Splitting = dataclasses.field(default_factory=Splitting)

    @property
    def layout(self) -> Layout:
        """How the pictures are stored."""
        if self.regions:
            return Layout("regions", self.regions.sizes.feature_dim, self.regions.sizes.top_classes)
        return Layout("patches", self.patch_size**2 * 3, 1)

    def __call__(self, raw: RawLine) -> BuiltRecord | RejectedLine:
        """The record of a line, or why there is none."""
        product = self.catalog.read(raw)
        if isinstance(product, RejectedLine):
            return product
        repairs = list(product.repairs)
        jpeg, shown = self._first_picture(product, repairs)
        tools = types.SimpleNamespace(picture=lambda _, item: self._picture(jpeg, item, repairs))
        record = product.record(tools, repairs)
        try:
            if self.catalog.strict:
                check_strict(repairs)
        except InvalidRecordError as error:
            return RejectedLine(raw.file, raw.line, *error.args)
        split = self.splitting(product)
        return BuiltRecord(split, record, tuple(repairs), shown, (raw.file, raw.line))

    def _first_picture(self, product: Product, repairs: list[str]) -> tuple[bytes, str]:
        """The first picture that loads, as it is stored, and its path; b"" where none does."""
        found, path = self.catalog.first_picture(product.sources["image"], self._shrink, repairs)
        return found or b"", path

    def _picture(self, jpeg: bytes, item: str, repairs: list[str]) -> Picture:
        """A stored picture with the classes of its patches, or with its regions."""
        if not self.regions:
            return Picture(jpeg, self.codebook and self.codebook.assign(self._patches(jpeg)))
        try:
            found = self.regions.read(item, region_limit(self.regions.backbone))
        except InvalidRecordError as error:
            repairs.append(f"{error.reason}: {error.detail}")
            found = self.regions.none
        return dataclasses.replace(found, jpeg=jpeg)

    def view(self, path: str) -> bytes:
        """A further picture of an item; b"" where it or its regions are not there."""
        data = b"" if self.regions else self.catalog.read_picture(path)
        return self._shrink(data) if data else b""

    def _shrink(self, data: bytes) -> bytes:
        return pixels.shrink(data, self.image_size, square=not self.regions)

    def descriptors(self, product: Product) -> np.ndarray:
        """What a codebook is fitted to: [N, Z] of the picture's patches, N = 0 without one."""
        jpeg, _ = self._first_picture(product, [])
        return codebooks.describe(self._patches(jpeg), self.patch_size)

    def _patches(self, jpeg: bytes) -> np.ndarray:
        """[N, P²·3]; N = 0 where there is no picture."""
        if not jpeg:
            return np.zeros((0, self.patch_size**2 * 3), np.uint8)
        return pixels.patchify(pixels.decode(jpeg), self.patch_size)


class DatasetStatistics:
    """Sums up outcomes in any order, and parts of a catalog in any order."""

    def __init__(self, in_pairs: frozenset[str] = frozenset()):
        """`in_pairs` are the ids that labelled pairs name."""
        self._in_pairs = in_pairs
        self.products = collections.Counter()  # by split
        self.repaired = collections.Counter()  # by kind
        self.missing = collections.Counter(dict.fromkeys(REGISTRY, 0))  # items, by modality
        self.words = collections.Counter()  # of the texts of train
        self.values = collections.defaultdict(collections.Counter)  # of train, by property
        self.sizes = collections.Counter()  # the largest of each of the modalities' sizes
        self.rejects: list[RejectedLine] = []
        self.fingerprint = 0  # of all records and their splits
        self.paired: dict[str, PairedItem] = {}  # those of `in_pairs` that are stored, by id

    def add(self, outcome: BuiltRecord | RejectedLine) -> None:
        """Counts what became of one line."""
        if isinstance(outcome, RejectedLine):
            self.rejects.append(outcome)
            return
        record, train = outcome.record, outcome.split == "train"
        self.products[outcome.split] += 1
        self.repaired.update(repair.partition(": ")[0] for repair in outcome.repairs)
        for name, modality in REGISTRY.items():
            content = record.contents[name]
            self.missing[name] += not modality.is_present(content)
            self.sizes |= collections.Counter(modality.sizes(content))
            if train:
                self.words.update(w for text in modality.texts(content) for w in _words(text))
        for property_, value in record.triples:
            self.values[property_][value] += train
        if record.id in self._in_pairs:
            identity = record.product, record.category, record.source
            self.paired[record.id] = PairedItem(outcome.split, outcome.picture, *identity)
        self.fingerprint = (self.fingerprint + _digest(outcome.split, record)) % 2**256

    def merge(self, other: Self) -> None:
        """Adds what became of another part of the catalog."""
        for name in ("products", "missing", "repaired", "words"):
            getattr(self, name).update(getattr(other, name))
        for name, counts in other.values.items():
            self.values[name].update(counts)  # adds, and keeps what counts 0
        self.sizes |= other.sizes
        self.rejects += other.rejects
        self.paired |= other.paired
        self.fingerprint = (self.fingerprint + other.fingerprint) % 2**256


@functools.lru_cache(1 << 16)  # properties and values repeat
def _words(text: str) -> tuple[str, ...]:
    return tuple(count_words([text]).elements())


def _digest(split: str, record: Record) -> int:
    """A hash of one record's content; their sum is a hash of the set.

    Modalities that the item lacks have no part in it, so that another optional one changes nothing.
    """
    fields: dict[str, Any] = {k: v for k, v in vars(record).items() if k != "contents"}
    for name, modality in REGISTRY.items():
        if modality.is_present(content := record.contents[name]):
            fields |= modality.to_features(content)
    digest = hashlib.sha256(split.encode())
    for key, value in sorted(fields.items()):
        data = value.tobytes() if isinstance(value, np.ndarray) else value
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest.update(f"\0{key}\0{len(data)}\0".encode() + data)
    return int.from_bytes(digest.digest(), "big")
