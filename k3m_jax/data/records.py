"""What a product is on its way from a catalog to a batch: a parsed line, a stored item, a view."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from k3m_jax import modalities
from k3m_jax.modalities.base import InvalidRecordError, clean_id, clean_text

SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # a part of file names
ALLOWED_REPAIRS = ("empty_triple", "repeated_triple", "picture_not_found")  # with --strict, too


@dataclasses.dataclass(frozen=True, order=True)
class RejectedLine:
    """One line of rejects.jsonl."""

    file: str
    line: int  # from 1
    reason: str
    detail: str


def check_strict(repairs: Iterable[str]) -> None:
    """Raises InvalidRecordError for the first repair that `--strict` does not allow."""
    for repair in repairs:
        kind, _, detail = repair.partition(": ")
        if kind not in ALLOWED_REPAIRS:
            raise InvalidRecordError(kind, detail)


@dataclasses.dataclass(frozen=True)
class Product:
    """A product as a line of its catalog describes it; pictures are read when they are needed."""

    id: str  # unique in the data set
    product: str  # items of one product share it: colour variants, other photographs
    category: str
    split: str  # "" where the catalog leaves it to `Splitting`
    source: str  # which catalog it comes from
    sources: Mapping[str, Any]  # by modality, as `Modality.parse` gives them
    repairs: tuple[str, ...] = ()  # "kind" or "kind: detail" of what was repaired or left out

    @classmethod
    def parse(cls, line: Mapping[str, Any], repairs: Iterable[str] = ()) -> "Product":
        """Cleans what a line says; a key that is absent may also be None.

        A part that can't be used is left out, and noted after the `repairs` of its reader.

        Raises InvalidRecordError: missing_id, wrong_type, not_unicode, bad_split.
        """
        item = clean_id(line.get("id"), "id")
        if not item:
            raise InvalidRecordError("missing_id", "the record has no id")
        split = clean_id(line.get("split"), "split")
        if split and (not SPLIT_NAME.fullmatch(split) or split == "all"):
            raise InvalidRecordError("bad_split", f"{split!r}: use at most 64 letters and digits")
        repairs = list(repairs)
        sources = {m.name: m.parse(line, repairs) for m in modalities.REGISTRY.values()}
        product = clean_text(line.get("product"), "product", repairs, number=True) or item
        category = clean_text(line.get("category"), "category", repairs, between=" > ")
        source = clean_text(line.get("source"), "source", repairs)
        return cls(item, product, category, split, source, sources, tuple(repairs))

    def record(self, tools: Any, repairs: list[str]) -> "Record":
        """What is stored of it, with the `tools` of `Modality.store`; what can't be is left out."""
        contents = {}
        for name, modality in modalities.REGISTRY.items():
            try:
                contents[name] = modality.store(self.sources[name], self.id, tools)
            except InvalidRecordError as error:
                repairs.append(f"{error.reason}: {error.detail}")
                contents[name] = modality.empty
        return Record(self.id, self.product, self.category, self.source, contents)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A stored item."""

    id: str
    product: str
    category: str
    source: str
    contents: Mapping[str, Any]  # by modality; `Modality.empty` where the item lacks it

    @property
    def title(self) -> str:
        """The title; "" where it is absent."""
        return self.contents["title"]

    @property
    def triples(self) -> tuple[tuple[str, str], ...]:
        """All (property, value) triples of the item: the facts about it."""
        return self.contents["knowledge"]

    @property
    def picture(self) -> bytes:
        """The stored JPEG; b"" where there is none."""
        return self.contents["image"].jpeg


@dataclasses.dataclass(frozen=True, eq=False)
class ItemView:
    """An item as a model is to see it: parts may be hidden, missing, or another product's."""

    record: Record
    visible: Mapping[str, Any]  # contents by modality
    query_property: str | None = None  # normalised, that a task queries ("" is none)
    label: int = -1  # of a task's example that begins with the item; -1 is none

    @classmethod
    def of(cls, record: Record) -> "ItemView":
        """The item as it is."""
        return cls(record, record.contents)


@dataclasses.dataclass(frozen=True)
class Splitting:
    """Which split a product is in: stable draws that keep the items of a product together."""

    valid_fraction: float = 0.0  # of the products that nothing else decides
    fold: int = 0  # held out as `test`, of …
    folds: int = 0  # … so many equal parts, whatever splits records name; 0: these decide

    def __call__(self, product: Product) -> str:
        """The name of the split."""
        item = product.product.encode()
        draws = [hashlib.blake2b(item, digest_size=8, salt=salt) for salt in (b"fold", b"")]
        fold, share = (int.from_bytes(draw.digest(), "big") for draw in draws)
        if self.folds and fold % self.folds == self.fold:
            return "test"
        if product.split and not self.folds:
            return product.split
        return "valid" if share < self.valid_fraction * 2**64 else "train"
