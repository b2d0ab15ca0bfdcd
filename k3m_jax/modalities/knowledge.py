"""A product's texts: its title, and its knowledge, (property, value) triples, with their spans.

Spans are recorded as the text is written: values hold any character, delimiters too.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from k3m_jax.modalities import base

Triple = tuple[str, str]  # (property, value) of the item
Span = tuple[int, int]  # [start, end) positions of tokens


class KnowledgeText(NamedTuple):
    """[CLS] property value property value … [SEP], with separators; empty without triples."""

    tokens: tuple[int, ...]
    property_spans: tuple[Span, ...]
    value_spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Knowledge(base.Modality):
    """Triples in the catalog's order; a property may repeat with other values."""

    name: ClassVar[str] = "knowledge"
    keys: ClassVar[tuple[str, ...]] = ("triples",)
    empty: ClassVar[tuple[Triple, ...]] = ()

    length: int  # K: tokens of the text, [CLS] and [SEP] included
    limit: int  # X: triples
    separators: tuple[str, str] | None = None  # after each property and after each value

    @classmethod
    def parse(cls, line: Mapping[str, Any], repairs: list[str]) -> tuple[Triple, ...]:
        """Triples with a property and a value each; a repeated one is left out.

        An object of properties will do, one for each pair, and a list of values.
        """
        kept: dict[Triple, None] = {}
        for key, name, value in _pairs(line.get("triples"), repairs):
            parts = enumerate((name, value))
            triple = tuple(base.clean_text(part, f"{key}[{j}]", repairs) for j, part in parts)
            if not all(triple):
                repairs.append("empty_triple")
            elif triple in kept:
                repairs.append("repeated_triple")
            else:
                kept[triple] = None
        return tuple(kept)

    @classmethod
    def features(cls, layout: Any) -> dict[str, base.Feature]:
        return {"properties": base.Feature((None,), str), "values": base.Feature((None,), str)}

    @classmethod
    def to_features(cls, content: Sequence[Triple]) -> dict[str, Any]:
        return {"properties": [p for p, _ in content], "values": [v for _, v in content]}

    @classmethod
    def from_features(cls, stored: Mapping[str, Any]) -> tuple[Triple, ...]:
        return tuple(zip(stored["properties"], stored["values"], strict=True))

    @classmethod
    def texts(cls, content: Sequence[Triple]) -> Iterable[str]:
        return (text for triple in content for text in triple)

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        separators = (":", ";") if settings.model.preset == "release" else None
        return cls(settings.lengths.knowledge, settings.lengths.triples, separators)

    @property
    def arrays(self) -> dict[str, base.Array]:
        K, X = self.length, self.limit
        text = " property : value ; …" if self.separators else " property value property value …"
        return {
            "knowledge_tokens": base.Array((K,), np.int32, f"[CLS]{text} [SEP], then 0"),
            "knowledge_mask": base.Array((K,), bool, "valid tokens"),
            "property_spans": base.Array((X, 2), np.int32, "[start, end) of each property"),
            "value_spans": base.Array((X, 2), np.int32, "[start, end) of each value"),
            "triple_mask": base.Array((X,), bool, "valid triples; none where knowledge is absent"),
        }

    def encode(self, contents, tokenizer, generators) -> KnowledgeText:
        """The text of the triples, in random order where there is a generator.

        A triple that does not fit what remains is left out, and shorter ones after it may still
        fit; only one that would not fit an empty text either is cut.
        """
        triples: Sequence[Triple] = contents["knowledge"]
        if (rng := generators.get("knowledge")) is not None:
            triples = [triples[i] for i in rng.permutation(len(triples))]
        marks = map(tokenizer.encode_term, self.separators) if self.separators else ((), ())
        after_property, after_value = marks
        separators = len(after_property) + len(after_value)
        tokens, spans = [tokenizer.cls], []
        for name, value in triples:
            room = self.length - 1 - len(tokens) - separators
            if len(spans) == self.limit or room < 2:
                break
            p, v = tokenizer.encode_term(name), tokenizer.encode_term(value)
            if room < len(p) + len(v) <= self.length - 2 - separators:
                continue
            p, v = fit(p, v, room)
            start, middle = len(tokens), len(tokens) + len(p) + len(after_property)
            spans.append(((start, start + len(p)), (middle, middle + len(v))))
            tokens += p + after_property + v + after_value
        if not spans:
            return KnowledgeText((), (), ())
        return KnowledgeText((*tokens, tokenizer.sep), *zip(*spans, strict=True))

    def write(self, row: base.Row, encoded: KnowledgeText) -> None:
        k, x = len(encoded.tokens), len(encoded.value_spans)
        row["knowledge_tokens"][:k] = encoded.tokens
        row["knowledge_mask"][:k] = True
        row["triple_mask"][:x] = True
        if x:  # NumPy takes no () for rows of pairs
            row["property_spans"][:x] = encoded.property_spans
            row["value_spans"][:x] = encoded.value_spans

    def describe(self, row: base.Row, tokenizer: Any) -> str:
        tokens, valid = row["knowledge_tokens"], row["triple_mask"]
        spans = zip(row["property_spans"][valid], row["value_spans"][valid], strict=True)
        words = (tuple(tokenizer.decode(tokens[slice(*s)]) for s in pair) for pair in spans)
        return " ".join(f"{name}‹{value}›" for name, value in words)


def _pairs(triples: object, repairs: list[str]) -> Iterator[tuple[str, object, object]]:
    """What stands for triples, one by one: a key for messages, the property, a value."""
    if isinstance(triples, Mapping):
        repairs.append("object_as_triples: triples is an object")
        triples = list(triples.items())
    elif not isinstance(triples, (list, tuple, type(None))):
        repairs.append(f"wrong_type: triples is {triples!r:.40}, not a list")
        triples = None
    for i, pair in enumerate(triples or ()):
        key = f"triples[{i}]"
        if isinstance(pair, Mapping):
            repairs.append(f"object_as_triples: {key} is an object")
            names = [pair[name] for name in ("property", "name", "key") if name in pair]
            named = names and "value" in pair
            pair = (names[0], pair["value"]) if named else next(iter(pair.items()), ())
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            repairs.append(f"wrong_type: {key} is no [property, value] pair")
        elif isinstance(pair[1], (list, tuple)):
            repairs.append(f"list_of_values: {key}")
            yield from ((key, pair[0], value) for value in pair[1])
        else:
            yield key, *pair


@dataclasses.dataclass(frozen=True)
class Title(base.TextModality):
    """[CLS] title [SEP], or [CLS] title [SEP] property value … [SEP]."""

    name: ClassVar[str] = "title"
    keys: ClassVar[tuple[str, ...]] = ("title",)

    limit: int  # tokens of the title itself, [CLS] and [SEP] included
    knowledge: Knowledge | None = None  # +PKG: what follows the title

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        limit = settings.lengths.title
        if not settings.model.knowledge_text:
            return cls(limit, limit)
        return cls(limit + settings.lengths.knowledge, limit, Knowledge.from_settings(settings))

    def encode(self, contents, tokenizer, generators) -> base.EncodedText:
        parts = [tokenizer.encode(contents["title"])[: self.limit - 2]]
        if self.knowledge:
            parts.append(self.knowledge.encode(contents, tokenizer, generators).tokens[1:-1])
        return self.joined(tokenizer, *parts)

    def parts(self, contents: base.Contents, encoded: base.EncodedText) -> dict[str, np.ndarray]:
        """The tokens of `title` and of `knowledge` in what `encode` gave; no special ones."""
        ends = np.flatnonzero(~encoded.content)
        found = [encoded.tokens[a + 1 : b] for a, b in itertools.pairwise(ends)]
        names = ("title", "knowledge") if self.is_present(contents["title"]) else ("knowledge",)
        nothing = np.zeros(0, np.int32)
        return {"title": nothing, "knowledge": nothing} | dict(zip(names, found, strict=False))


@dataclasses.dataclass(frozen=True)
class CandidateTexts:
    """Texts "[CLS] property value [SEP]" of triples of no product, padded to L."""

    tokens: np.ndarray  # int32 [Q, L]
    mask: np.ndarray  # bool [Q, L]
    property_spans: np.ndarray  # int32 [Q, 2]
    value_spans: np.ndarray  # int32 [Q, 2]

    @classmethod
    def write(cls, pairs: Sequence[Triple], tokenizer: base.TextTokenizer, length: int) -> Self:
        """Writes each (property, value) alone, cut to L = `length` tokens."""
        Q = len(pairs)
        tokens, spans = np.zeros((Q, length), np.int32), np.zeros((2, Q, 2), np.int32)
        for q, (name, value) in enumerate(pairs):
            p, v = fit(tokenizer.encode_term(name), tokenizer.encode_term(value), length - 2)
            middle, end = 1 + len(p), 1 + len(p) + len(v)
            tokens[q, : end + 1] = (tokenizer.cls, *p, *v, tokenizer.sep)
            spans[:, q] = (1, middle), (middle, end)
        return cls(tokens, np.arange(length) <= spans[1, :, 1:], spans[0], spans[1])

    @classmethod
    def concatenate(cls, parts: Sequence["CandidateTexts"]) -> Self:
        """The texts of all parts in their order."""
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Sequence[int]) -> "CandidateTexts":
        """Those of `rows`, in their order."""
        return CandidateTexts(*(array[rows] for array in vars(self).values()))

    def identity(self, row: int) -> bytes:
        """Equal for two texts that the encoder can't tell apart once they are cut to length."""
        return b"".join(array[row].tobytes() for array in vars(self).values())


CANDIDATE_ARRAYS = tuple(field.name for field in dataclasses.fields(CandidateTexts))


def fit(p: tuple[int, ...], v: tuple[int, ...], room: int) -> tuple[tuple[int, ...], ...]:
    """Cuts a property, to no less than half the room, and a value to `room` >= 2 tokens."""
    p = p[: max(room - len(v), room // 2)]
    return p, v[: room - len(p)]
