"""What a modality is; these files need NumPy and Pillow alone, as exported folders hold them."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

Row = Mapping[str, np.ndarray]  # one row of each array of a batch
Contents = Mapping[str, Any]  # of an item, by modality
Generators = Mapping[str, np.random.Generator | None]  # by modality; None where nothing is random
# `data.input.tokenizer.Tokenizer`; modalities need its cls, sep, encode and encode_term.
TextTokenizer = Any


class InvalidRecordError(Exception):
    """This record can't be used. `reason` is one word to count by, `detail` is for a person."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it pickles
        self.reason, self.detail = reason, detail


class Feature(NamedTuple):
    """One stored value of an item."""

    shape: tuple[int | None, ...]  # () is a scalar; None is any length
    dtype: type  # str, bytes, or a NumPy type


class Array(NamedTuple):
    """One array of a batch, without its first dimension, the rows."""

    shape: tuple[int, ...]
    dtype: Any
    meaning: str


class Modality(abc.ABC):
    """One modality: class methods know items as they are stored, instances a run's batches.

    A catalog's line holds a *source*, shards its *content*, and a batch what is *encoded* of it.
    """

    name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]  # of a line of products.jsonl
    empty: ClassVar[Any] = ""  # the content of an item that lacks the modality

    # Catalogs and shards.

    @classmethod
    def parse(cls, line: Mapping[str, Any], repairs: list[str]) -> Any:
        """The source of a catalog's line, absent if its key is or can't be used.

        `repairs` gets "kind" or "kind: detail" for each part that was repaired or left out.
        """
        return clean_text(line.get(cls.keys[0]), cls.keys[0], repairs)

    @classmethod
    def store(cls, source: Any, item: str, tools: Any) -> Any:
        """The content of a source; `tools.picture(images, item)` reads the first that loads."""
        return source

    @classmethod
    def features(cls, layout: Any) -> dict[str, Feature]:
        """The stored values by name; `layout` is `picture.Layout`, of the data set's pictures."""
        return {cls.name: Feature((), str)}

    @classmethod
    def to_features(cls, content: Any) -> dict[str, Any]:
        """Content as stored values."""
        return {cls.name: content}

    @classmethod
    def from_features(cls, stored: Mapping[str, Any]) -> Any:
        """The inverse; data sets built without the modality have `empty` instead."""
        return stored[cls.name]

    @classmethod
    def is_present(cls, content: Any) -> bool:
        """Whether an item has the modality."""
        return bool(content)

    @classmethod
    def texts(cls, content: Any) -> Iterable[str]:
        """The texts that a vocabulary is learned from."""
        return (content,) if isinstance(content, str) else ()

    @classmethod
    def sizes(cls, content: Any) -> dict[str, int]:
        """Sizes of which a data set records the largest."""
        return {}

    # Batches.

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: Any) -> Self:
        """The modality of a run; `settings` are a run's, or an exported model's with attributes."""

    @property
    @abc.abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The arrays of a batch by name; what ends in `_tokens` passes the text encoder."""

    def blank(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets what is not 0 in the rows [B, …] of absent items."""
        return

    @abc.abstractmethod
    def encode(self, contents: Contents, tokenizer: TextTokenizer, generators: Generators) -> Any:
        """An item's contents as this modality's arrays want them; not padded yet."""

    @classmethod
    def is_shown(cls, encoded: Any) -> bool:
        """Whether anything was encoded: an item's only triple may be what is asked for."""
        return len(encoded[0]) > 0

    @abc.abstractmethod
    def write(self, row: Row, encoded: Any) -> None:
        """Puts what `encode` gave into zeroed arrays of one row."""

    @abc.abstractmethod
    def describe(self, row: Row, tokenizer: Any) -> str:
        """One row of a batch in words; "" where the modality is absent."""


class EncodedText(NamedTuple):
    """[CLS] text [SEP]; no token at all where the text has none."""

    tokens: np.ndarray  # int32 [t]
    content: np.ndarray  # bool [t], not special


@dataclasses.dataclass(frozen=True)
class TextModality(Modality):
    """One text; a subclass needs its name and key and `from_settings` alone."""

    length: int  # tokens, [CLS] and [SEP] included; longer texts are cut

    @property
    def arrays(self) -> dict[str, Array]:
        shape, absent = (self.length,), f"none where the {self.name} is absent"
        return {
            f"{self.name}_tokens": Array(shape, np.int32, "[CLS], each text and a [SEP], then 0"),
            f"{self.name}_mask": Array(shape, bool, "valid tokens, special ones included"),
            f"{self.name}_content": Array(shape, bool, f"tokens that are not special; {absent}"),
        }

    def encode(self, contents, tokenizer, generators) -> EncodedText:
        return self.joined(tokenizer, tokenizer.encode(contents[self.name])[: self.length - 2])

    def joined(self, tokenizer: TextTokenizer, *parts: Sequence[int]) -> EncodedText:
        """[CLS], then the tokens of each part that has any, and [SEP]; nothing where none has."""
        tokens, content = [], []
        for part in filter(len, parts):
            tokens += [*part, tokenizer.sep]
            content += [True] * len(part) + [False]
        if tokens:
            tokens, content = [tokenizer.cls, *tokens], [False, *content]
        return EncodedText(np.array(tokens, np.int32), np.array(content, bool))

    def write(self, row: Row, encoded: EncodedText) -> None:
        t = len(encoded.tokens)
        row[f"{self.name}_tokens"][:t] = encoded.tokens
        row[f"{self.name}_mask"][:t] = True
        row[f"{self.name}_content"][:t] = encoded.content

    def describe(self, row: Row, tokenizer: Any) -> str:
        tokens = row[f"{self.name}_tokens"][row[f"{self.name}_content"]]
        return " ".join("MASK" if t == tokenizer.mask else tokenizer.token(t) for t in tokens)


def clean_text(
    value: object, key: str, repairs: list[str], *, number: bool = False, between: str = " "
) -> str:
    """A text under `key` of a catalog's line, without white space around it; None is "".

    Numbers and booleans become text, and lists become one; it is no repair where `number` and the
    number is whole. Anything else is left out.
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        repairs.append(f"list_as_text: {key}")
        parts = (clean_text(part, key, repairs) for part in value)
        return between.join(filter(None, parts))
    if isinstance(value, (bool, int, float)):
        if not number or isinstance(value, bool) or value % 1:
            repairs.append(f"number_as_text: {key} is {value!r}")
        return number_text(value)
    if not isinstance(value, str):
        repairs.append(f"wrong_type: {key} is {value!r:.40}, not a string")
        return ""
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        repairs.append(f"not_unicode: {key}: {error}")
        value = value.encode(errors="replace").decode()
    return value.strip()


def number_text(value: float) -> str:
    """A number as text: true, 3, 2.5; 3.0 is 3, since a column with gaps makes floats of all."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return str(int(value) if value == int(value) else value)


def clean_id(value: object, key: str) -> str:
    """A text, or a whole number, that names something; None is "".

    Raises InvalidRecordError: wrong_type, not_unicode.
    """
    repairs: list[str] = []
    text = clean_text(value, key, repairs, number=True)
    for repair in repairs:
        kind, _, detail = repair.partition(": ")
        raise InvalidRecordError(kind if kind == "not_unicode" else "wrong_type", detail)
    return text
