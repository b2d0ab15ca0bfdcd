"""The text of triples: spans, room, separators, and candidates."""

import numpy as np
import pytest

from k3m_jax.modalities.knowledge import CandidateTexts, Knowledge
from tests.products import tokenizer

LONG = " ".join(str(n) for n in range(100, 160))
COLON_AND_SEMICOLON = (":", ";")


def encode(triples, length=32, limit=8, separators=None):
    return Knowledge(length, limit, separators).encode({"knowledge": triples}, tokenizer(), {})


def read(text):
    spans = zip(text.property_spans, text.value_spans, strict=True)
    return [tuple(tokenizer().decode(text.tokens[slice(*s)]) for s in pair) for pair in spans]


def test_spans_are_where_the_texts_are():
    text = encode([("colour", "red"), ("colour", "green")])
    assert read(text) == [("colour", "red"), ("colour", "green")]
    assert (text.tokens[0], text.tokens[-1]) == (tokenizer().cls, tokenizer().sep)
    assert text.property_spans[0] == (1, 2)
    assert len(text.tokens) == 6
    # Values hold any character, those that separate elsewhere included.
    assert read(encode([("brand", "norda : velti ; # 7"), ("a", "b")]))[1] == ("a", "b")


def test_no_triples_no_tokens():
    assert encode([]).tokens == ()
    assert encode([("a", "b")], length=3).tokens == ()  # no room for a pair


def test_no_more_triples_and_tokens_than_fit():
    triples = [(str(n), str(n)) for n in range(100, 140)]
    assert read(encode(triples, 256, 5)) == triples[:5]
    short = encode(triples, 11, 24)
    assert read(short) == triples[:4]
    assert len(short.tokens) == 10


def test_what_does_not_fit_is_left_out_and_shorter_triples_follow():
    triples = [("colour", "red"), ("brand", "1 2 3 4 5"), ("fibre", "wool")]
    assert read(encode(triples, 8)) == [triples[0], triples[2]]


@pytest.mark.parametrize("length", [4, 5, 8, 30])
def test_what_never_fits_is_cut_and_keeps_a_token_of_both(length):
    text = encode([(LONG, LONG)], length)
    assert len(text.tokens) == length
    for part in read(text)[0]:
        assert part
        assert LONG.startswith(part)


def test_texts_without_a_token_are_unknown_words():
    assert read(encode([("", "\u200b")])) == [("[UNK]", "[UNK]")]


def test_separators_stand_between_and_in_no_span():
    triples = [("colour", "red"), ("fibre", "wool"), ("brand", "1 2 3")]
    text = encode(triples, separators=COLON_AND_SEMICOLON)
    colon, semicolon = (tokenizer().encode_term(mark)[0] for mark in COLON_AND_SEMICOLON)
    assert read(text) == triples
    assert text.tokens[2::4][:2] == (colon, colon)
    assert text.tokens[4::4][:2] == (semicolon, semicolon)
    assert text.tokens[-2:] == (semicolon, tokenizer().sep)
    # Each triple needs two tokens more: of eleven, nine are between [CLS] and [SEP].
    assert read(encode(triples, 11, separators=COLON_AND_SEMICOLON)) == triples[:2]
    ((p, v),) = read(encode([(LONG, LONG)], 8, separators=COLON_AND_SEMICOLON))
    assert LONG.startswith(p)
    assert LONG.startswith(v)
    assert len(p.split()) + len(v.split()) == 4


def test_candidates_are_padded_and_cut_with_the_value_kept_longest():
    pairs = [("colour", "red"), (LONG, "red"), ("colour", LONG), (LONG, LONG)]
    texts = CandidateTexts.write(pairs, tokenizer(), 8)
    assert texts.tokens.shape == texts.mask.shape == (4, 8)
    assert texts.tokens.dtype == texts.property_spans.dtype == np.int32
    spans = zip(texts.property_spans, texts.value_spans, strict=True)
    lengths = [(p[1] - p[0], v[1] - v[0]) for p, v in spans]
    assert lengths == [(1, 1), (5, 1), (1, 5), (3, 3)]
    for row, (p, v) in enumerate(lengths):
        assert texts.mask[row].sum() == p + v + 2
        assert texts.tokens[row, p + v + 1] == tokenizer().sep
        assert not texts.tokens[row, p + v + 2 :].any()
    assert tokenizer().decode(texts.tokens[0, slice(*texts.value_spans[0])]) == "red"
    assert len(CandidateTexts.write([], tokenizer(), 8)) == 0
