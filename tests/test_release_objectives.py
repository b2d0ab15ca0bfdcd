"""What the `release` preset hides, and which products it pairs."""

import numpy as np

from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.knowledge import Knowledge, KnowledgeText
from k3m_jax.objectives.base import Hiding
from k3m_jax.reproductions.release.objectives import MaskedValues
from tests.products import collated, examples_of, products, record, tokenizer
from tests.tiny import TINY, released


def test_all_values_but_the_first_are_hidden():
    triples = [("colour", "red"), ("brand", "1 2 3"), ("fibre", "wool")]
    mask, hiding = tokenizer().mask, Hiding(tokenizer(), ValueVocabulary((), ()), {}, True)
    objective = MaskedValues.from_settings(released(TINY))
    text = Knowledge(32, 8, (":", ";")).encode({"knowledge": triples}, tokenizer(), {})
    target, encoded = objective.hide(None, {"knowledge": text}, hiding)
    hidden, words = target["value_weights"], target["value_targets"]
    assert tokenizer().decode(words[hidden]) == "1 2 3 wool"
    tokens = np.array(encoded["knowledge"].tokens)
    np.testing.assert_array_equal(tokens == mask, hidden)
    assert np.where(hidden, words, tokens).tolist() == list(text.tokens)
    nothing = {"knowledge": KnowledgeText((), (), ())}
    assert not objective.hide(None, nothing, hiding)[0]["value_weights"].any()


def test_a_batch_of_few_many_and_no_triples():
    settings = released(TINY)
    many = record(4, [("colour", str(i)) for i in range(158)])
    records = [*products(2), record(5, [("colour", "red")]), record(6, []), many]
    batch = collated([*examples_of(records, settings), None, None, None], settings)
    hidden = batch["value_weights"].astype(bool)
    np.testing.assert_array_equal(batch["knowledge_tokens"] == tokenizer().mask, hidden)
    assert (batch["value_targets"][hidden] != tokenizer().mask).all()
    # A single triple stays visible.
    assert hidden.any(1).tolist() == [True, True, False, False, True, False, False, False]
    assert batch["triple_mask"][4].sum() == 3  # [CLS], 3 x "colour : i ;", [SEP] in 16 tokens
    # A row with triples whose next is a product; the last of a group has the first, if another.
    assert batch["pair_weights"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert not batch["mismatched"].any()
