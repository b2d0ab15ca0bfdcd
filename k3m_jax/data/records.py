"""What a product is, and how a record that can't be used is told apart from one that can."""

import dataclasses
import hashlib
import re

import numpy as np

SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Product:
    """A product as its catalogue tells it; the picture is named here and read when it is needed.

    A missing title, picture or list of triples is an empty one. Triples keep the catalogue's order;
    a property may repeat with other values.
    """

    id: str  # unique in the data set
    product: str  # items of one product share it: colour variants, other photos
    title: str
    triples: tuple[tuple[str, str], ...]  # (property, value)
    category: str
    picture: str  # path relative to the catalogue's folder
    split: str  # "" where the catalogue leaves it to `split_of`
    source: str
    notes: tuple[str, ...] = ()  # what was repaired on the way, one word per case; counted


@dataclasses.dataclass(frozen=True)
class DetectorOutput:
    """What a detector saw in one picture, the most confident regions kept in its own order."""

    boxes: np.ndarray  # [N, 4] float32: x1, y1, x2, y2 as shares of width and height
    features: np.ndarray  # [N, F] float16
    class_ids: np.ndarray  # [N, c] int32, most probable first; c = 0 where nothing told classes
    class_probs: np.ndarray  # [N, c] float16, as they come: they sum to less than 1


class InvalidRecordError(Exception):
    """This record can't be used. `reason` is one word to count by, `detail` is for a person."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it pickles
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class RejectedLine:
    """One line of rejects.jsonl."""

    file: str
    line: int  # from 1
    reason: str
    detail: str


def make_product(
    *,
    id: object,
    title: object = None,
    triples: object = None,
    product: object = None,
    category: object = None,
    picture: object = None,
    split: object = None,
    source: object = None,
) -> Product:
    """Checks and cleans what a catalogue says; None stands for a key that is absent.

    Texts lose surrounding white space and nothing else: emoji and ":", ";", "#" stay. A triple with
    an empty property or value says nothing and is dropped, and so is one that the item has already;
    both are noted.

    Raises:
      RejectedRecord: missing_id, wrong_type, not_unicode, bad_split.
    """
    name = _text(id, "id", number=True)
    if not name:
        raise InvalidRecordError("missing_id", "the record has no id")
    split = _text(split, "split")
    if split and (not SPLIT_NAME.fullmatch(split) or split == "all"):
        raise InvalidRecordError(
            "bad_split", f"{split!r} can't name a split: use letters and digits"
        )
    kept, notes = _triples(triples)
    return Product(
        id=name,
        product=_text(product, "product", number=True) or name,
        title=_text(title, "title"),
        triples=kept,
        category=_text(category, "category"),
        picture=_text(picture, "picture"),
        split=split,
        source=_text(source, "source"),
        notes=notes,
    )


@dataclasses.dataclass(frozen=True)
class Splitting:
    """Which split a product is in: stable draws that never part the items of one product."""

    valid_fraction: float = 0.0  # of the products that nothing else decides
    fold: int = 0  # held out as `test`, of …
    folds: int = 0  # … so many equal parts, whatever splits records name; 0: these decide

    def __call__(self, product: Product) -> str:
        """The name of the split."""
        if self.folds:
            if _draw(product, b"fold") % self.folds == self.fold:
                return "test"
        elif product.split:
            return product.split
        return "valid" if _draw(product) < self.valid_fraction * 2**64 else "train"


def _draw(product: Product, salt: bytes = b"") -> int:
    """Below 2^64."""
    digest = hashlib.blake2b(product.product.encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "big")


def _text(value: object, key: str, number: bool = False) -> str:
    if value is None:
        return ""
    if number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InvalidRecordError("wrong_type", f"{key} is {_named(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise InvalidRecordError("not_unicode", f"{key}: {error}") from error
    return value.strip()


def _triples(value: object) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    if value is None:
        return (), ()
    if not isinstance(value, (list, tuple)):
        raise InvalidRecordError("wrong_type", f"triples is {_named(value)}, not a list")
    kept: dict[tuple[str, str], None] = {}
    notes = []
    for i, pair in enumerate(value):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InvalidRecordError("wrong_type", f"triples[{i}] is not a [property, value] pair")
        triple = (_text(pair[0], f"triples[{i}][0]"), _text(pair[1], f"triples[{i}][1]"))
        if not all(triple):
            notes.append("empty_triple")
        elif triple in kept:
            notes.append("repeated_triple")
        else:
            kept[triple] = None
    return tuple(kept), tuple(notes)


def _named(value: object) -> str:
    return f"{type(value).__name__} {value!r:.40}"
