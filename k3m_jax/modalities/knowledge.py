"""Triples as text, with the span of each property and value recorded while it is written.

Spans are never found again by searching for delimiters: values hold any character.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from k3m_jax.data.input.tokenizer import Tokenizer

Span = tuple[int, int]  # [start, end) positions of tokens


@dataclasses.dataclass(frozen=True)
class KnowledgeText:
    """[CLS] property value property value … [SEP]; no token at all where there is no triple.

    In the `release` preset [CLS] property : value ; property : value ; … [SEP].
    """

    tokens: tuple[int, ...]
    property_spans: tuple[Span, ...]
    value_spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Texts "[CLS] property value [SEP]", padded to L; what the semantic encoder takes."""

    tokens: np.ndarray  # int32 [Q, L]
    mask: np.ndarray  # bool [Q, L]
    property_spans: np.ndarray  # int32 [Q, 2]
    value_spans: np.ndarray  # int32 [Q, 2]

    def take(self, rows: Sequence[int]) -> "Candidates":
        """Those of `rows`, in their order."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Candidates(*(part[rows] for part in parts))

    def reading(self, row: int) -> bytes:
        """Equal for two texts that the encoder can't tell apart, once they are cut to length."""
        parts = self.tokens[row], self.property_spans[row], self.value_spans[row]
        return b"".join(part.tobytes() for part in parts)


def knowledge_text(
    triples: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    length: int,
    limit: int,
    *,
    marks: bool = False,
) -> KnowledgeText:
    """Writes triples, in the order they come, as far as they fit.

    A triple that does not fit what remains is left out whole, and shorter ones after it may still
    fit: training draws another order each visit, so that its turn comes. Only one that would not
    fit an empty text either is cut.

    Args:
      triples: (property, value) in the order wanted.
      tokenizer: what the texts are cut into tokens by.
      length: K, tokens at most.
      limit: X, triples at most.
      marks: a colon stands after each property and a semicolon after each value, in no span.
    """
    colon, semicolon = map(tokenizer.encode_term, ":;") if marks else ((), ())
    tokens, property_spans, value_spans = [tokenizer.cls], [], []
    for name, value in triples:
        marked = len(colon) + len(semicolon)
        room = length - 1 - len(tokens) - marked
        if len(value_spans) == limit or room < 2:
            break
        p, v = tokenizer.encode_term(name), tokenizer.encode_term(value)
        if room < len(p) + len(v) <= length - 2 - marked:
            continue
        p, v = _fit(p, v, room)
        property_spans.append((len(tokens), len(tokens) + len(p)))
        tokens += p + colon
        value_spans.append((len(tokens), len(tokens) + len(v)))
        tokens += v + semicolon
    if not value_spans:
        return KnowledgeText((), (), ())
    tokens.append(tokenizer.sep)
    return KnowledgeText(tuple(tokens), tuple(property_spans), tuple(value_spans))


def mask_values(text: KnowledgeText, mask: int) -> tuple[KnowledgeText, list[int], list[int]]:
    """The text with all values but the first as [MASK], where these are and what stood there."""
    positions = [i for span in text.value_spans[1:] for i in range(*span)]
    tokens = list(text.tokens)
    for i in positions:
        tokens[i] = mask
    masked = dataclasses.replace(text, tokens=tuple(tokens))
    return masked, positions, [text.tokens[i] for i in positions]


def candidates(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, length: int) -> Candidates:
    """Writes each (property, value) alone, cut to L = `length` tokens.

    The property gives way first, but never more than half the room, so both spans hold a token.
    """
    Q = len(pairs)
    tokens = np.zeros((Q, length), np.int32)
    mask = np.zeros((Q, length), bool)
    spans = np.zeros((2, Q, 2), np.int32)
    for q, (name, value) in enumerate(pairs):
        p, v = _fit(tokenizer.encode_term(name), tokenizer.encode_term(value), length - 2)
        middle, end = 1 + len(p), 1 + len(p) + len(v)
        tokens[q, : end + 1] = (tokenizer.cls, *p, *v, tokenizer.sep)
        mask[q, : end + 1] = True
        spans[:, q] = (1, middle), (middle, end)
    return Candidates(tokens, mask, spans[0], spans[1])


def _fit(
    p: tuple[int, ...], v: tuple[int, ...], room: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cuts a property and a value to `room` tokens together (at least 2), at least 1 each."""
    p = p[: max(room - len(v), room // 2)]
    return p, v[: room - len(p)]
