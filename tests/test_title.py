"""The text of titles, and of the triples that follow them for the baselines with +PKG."""

import dataclasses

import numpy as np
import pytest

from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.modalities.knowledge import Title
from k3m_jax.settings import Lengths
from tests.products import collated, examples_of, products, record, tokenizer
from tests.tiny import TINY, baseline

TRIPLES = (("colour", "red"), ("brand", "norda"))
TEXT = "colour red brand norda"
ALONE, WITH_TRIPLES = (
    Title.from_settings(baseline("bert", knowledge_text=triples)) for triples in (False, True)
)


def written(modality, title, triples=TRIPLES):
    """The whole text, and what of it is content."""
    contents = {"title": title, "knowledge": triples}
    encoded = modality.encode(contents, tokenizer(), {})
    words = " ".join(tokenizer().token(i) for i in encoded.tokens)
    return words, tokenizer().decode(encoded.tokens[encoded.content])


@pytest.mark.parametrize(
    ("modality", "title", "triples", "words", "content"),
    [
        (ALONE, "a thing", TRIPLES, "[CLS] a thing [SEP]", "a thing"),
        (ALONE, "red " * 50, (), "[CLS] red red red red red red [SEP]", "red red red red red red"),
        (ALONE, " \u200b ", (), "", ""),
        (WITH_TRIPLES, "a thing", TRIPLES, f"[CLS] a thing [SEP] {TEXT} [SEP]", f"a thing {TEXT}"),
        (WITH_TRIPLES, "", TRIPLES, f"[CLS] {TEXT} [SEP]", TEXT),
        (WITH_TRIPLES, "a thing", (), "[CLS] a thing [SEP]", "a thing"),
        (WITH_TRIPLES, "", (), "", ""),
    ],
    ids=["title", "long title", "no token", "both", "no title", "no triples", "neither"],
)
def test_each_part_that_is_there_ends_in_a_separator(modality, title, triples, words, content):
    assert written(modality, title, triples) == (words, content)


def test_neither_part_takes_the_others_room():
    lengths = Lengths(title=6, knowledge=10, triples=4, candidate=6)
    settings = dataclasses.replace(baseline("bert", knowledge_text=True), lengths=lengths)
    title = "red green blue black white grey pink"
    words, _ = written(Title.from_settings(settings), title, TRIPLES * 3)
    assert words == f"[CLS] red green blue black [SEP] {TEXT} {TEXT} [SEP]"
    assert BatchLayout.of(settings).spec(1)["title_tokens"][0] == (1, 16)


@pytest.mark.parametrize("settings", [TINY, baseline("bert", knowledge_text=True)])
def test_a_batch_holds_the_text_and_its_hidden_tokens(settings):
    records = [*products(3), record(9, [], title="")]
    batch = collated(examples_of(records, settings), settings)
    modality = Title.from_settings(settings)
    for row, item in enumerate(records):
        tokens, masked = batch["title_tokens"][row].copy(), batch["mlm_weights"][row] > 0
        assert masked.any() == bool(item.title)
        assert batch["title_content"][row, batch["mlm_positions"][row, masked]].all()
        tokens[batch["mlm_positions"][row, masked]] = batch["mlm_targets"][row, masked]
        expected = modality.encode(item.contents, tokenizer(), {})
        found = np.flatnonzero(batch["title_mask"][row])
        np.testing.assert_array_equal(found, np.arange(len(expected.tokens)))
        np.testing.assert_array_equal(batch["title_content"][row, found], expected.content)
        # Training writes triples in random order.
        assert sorted(tokens[found]) == sorted(expected.tokens)
        if not modality.knowledge:
            np.testing.assert_array_equal(tokens[found], expected.tokens)
