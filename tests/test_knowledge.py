import numpy as np
import pytest

from k3m_jax.modalities.knowledge import candidates, knowledge_text, mask_values
from tests.products import tokenizer

LONG = " ".join(str(n) for n in range(100, 160))


def spelled(tokens, span):
    return tokenizer().decode(tokens[span[0] : span[1]])


def read(text):
    return [
        (spelled(text.tokens, p), spelled(text.tokens, v))
        for p, v in zip(text.property_spans, text.value_spans, strict=True)
    ]


def test_spans_are_where_the_texts_are():
    triples = [("colour", "red"), ("brand", "norda : velti ; # 7"), ("colour", "green")]
    text = knowledge_text(triples[::2], tokenizer(), 32, 8)
    assert read(text) == triples[::2]
    assert text.tokens[0] == tokenizer().cls
    assert text.tokens[-1] == tokenizer().sep
    assert text.property_spans[0] == (1, 2)
    assert len(text.tokens) == 6
    delimited = knowledge_text(triples, tokenizer(), 32, 8)
    assert read(delimited)[2] == ("colour", "green")


def test_no_triples_no_tokens():
    assert knowledge_text([], tokenizer(), 32, 8).tokens == ()
    assert knowledge_text([("a", "b")], tokenizer(), 3, 8).tokens == ()  # no room for a pair


def test_no_more_triples_and_tokens_than_fit():
    triples = [(str(n), str(n)) for n in range(100, 140)]
    few = knowledge_text(triples, tokenizer(), 256, 5)
    assert read(few) == triples[:5]
    short = knowledge_text(triples, tokenizer(), 11, 24)
    assert read(short) == triples[:4]
    assert len(short.tokens) == 10


def test_what_does_not_fit_waits_and_shorter_triples_follow():
    triples = [("colour", "red"), ("brand", "1 2 3 4 5"), ("fibre", "wool")]
    assert read(knowledge_text(triples, tokenizer(), 8, 8)) == [triples[0], triples[2]]


@pytest.mark.parametrize("length", [4, 5, 8, 30])
def test_what_never_fits_is_cut_and_keeps_a_token_of_both(length):
    text = knowledge_text([(LONG, LONG)], tokenizer(), length, 8)
    assert len(text.tokens) == length
    ((p, v),) = read(text)
    assert LONG.startswith(p)
    assert LONG.startswith(v)
    assert p
    assert v


def test_unreadable_texts_stand_as_unknown():
    text = knowledge_text([("", "\u200b")], tokenizer(), 8, 8)
    assert read(text) == [("[UNK]", "[UNK]")]


def test_candidates_are_padded_and_cut_with_the_value_kept_longest():
    pairs = [("colour", "red"), (LONG, "red"), ("colour", LONG), (LONG, LONG)]
    made = candidates(pairs, tokenizer(), 8)
    assert made.tokens.shape == made.mask.shape == (4, 8)
    assert made.tokens.dtype == made.property_spans.dtype == np.int32
    spans = zip(made.property_spans, made.value_spans, strict=True)
    lengths = [(p[1] - p[0], v[1] - v[0]) for p, v in spans]
    assert lengths == [(1, 1), (5, 1), (1, 5), (3, 3)]
    for row, (p, v) in enumerate(lengths):
        assert made.mask[row].sum() == p + v + 2
        assert made.tokens[row, p + v + 1] == tokenizer().sep
        assert not made.tokens[row, p + v + 2 :].any()
    assert spelled(made.tokens[0], made.value_spans[0]) == "red"
    assert candidates([], tokenizer(), 8).tokens.shape == (0, 8)


def test_marks_stand_between_and_in_no_span():
    triples = [("colour", "red"), ("fibre", "wool"), ("brand", "1 2 3")]
    text = knowledge_text(triples, tokenizer(), 32, 8, marks=True)
    colon, semicolon = (tokenizer().encode_term(mark)[0] for mark in ":;")
    assert read(text) == triples
    assert text.tokens[2::4][:2] == (colon, colon)
    assert text.tokens[4::4][:2] == (semicolon, semicolon)
    assert text.tokens[-2:] == (semicolon, tokenizer().sep)
    # Each triple needs two tokens more: of eleven, nine are between [CLS] and [SEP].
    assert read(knowledge_text(triples, tokenizer(), 11, 8, marks=True)) == triples[:2]
    ((p, v),) = read(knowledge_text([(LONG, LONG)], tokenizer(), 8, 8, marks=True))
    assert LONG.startswith(p)
    assert LONG.startswith(v)
    assert len(p.split()) + len(v.split()) == 4


def test_all_values_but_the_first_are_masked():
    triples = [("colour", "red"), ("brand", "1 2 3"), ("fibre", "wool")]
    text = knowledge_text(triples, tokenizer(), 32, 8, marks=True)
    masked, positions, targets = mask_values(text, tokenizer().mask)
    assert tokenizer().decode(targets) == "1 2 3 wool"
    assert [text.tokens[i] for i in positions] == targets
    assert all(masked.tokens[i] == tokenizer().mask for i in positions)
    kept = [i for i in range(len(text.tokens)) if i not in positions]
    assert [masked.tokens[i] for i in kept] == [text.tokens[i] for i in kept]
    assert mask_values(knowledge_text([], tokenizer(), 32, 8), 1)[1:] == ([], [])
