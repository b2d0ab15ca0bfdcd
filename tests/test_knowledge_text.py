"""The text of the baselines with +PKG: a title, and the triples behind it."""

import dataclasses

import numpy as np
import pytest
from products import inputs, memory_shards, products, record, tokenizer
from tiny import baseline

from k3m_jax.data.input.batch import batch_spec
from k3m_jax.data.input.collate import collate
from k3m_jax.data.input.examples import ExampleBuilder
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.settings import Lengths

TRIPLES = [("colour", "red"), ("brand", "norda")]
BEHIND = "colour red brand norda [SEP]"


def settings(knowledge_text=True, rate=0.0, lengths=None):
    chosen = baseline("bert", knowledge_text=knowledge_text)
    mlm = dataclasses.replace(chosen.objectives.mlm, rate=rate)
    return dataclasses.replace(
        chosen,
        objectives=dataclasses.replace(chosen.objectives, mlm=mlm),
        lengths=lengths or chosen.lengths,
    )


def example(chosen, item, training=False):
    prepare = ExampleBuilder(chosen, tokenizer(), ValueVocabulary((), ()), training=training)
    return prepare({**item, "regions": None}, np.random.default_rng(0))


def text(found):
    """Special tokens as they are written, and what is content between bars."""
    told = tokenizer()
    content = told.decode(found.title[found.title_content])
    return " ".join(told.token(i) for i in found.title), content


@pytest.mark.parametrize(
    ("item", "written", "content"),
    [
        (
            record(1, TRIPLES, title="a thing"),
            f"[CLS] a thing [SEP] {BEHIND}",
            "a thing colour red brand norda",
        ),
        (record(1, TRIPLES, title=""), f"[CLS] {BEHIND}", "colour red brand norda"),
        (record(1, [], title="a thing"), "[CLS] a thing [SEP]", "a thing"),
        (record(1, [], title=""), "", ""),
        (
            record(1, TRIPLES, title="a thing", told=TRIPLES[1:]),
            "[CLS] a thing [SEP] brand norda [SEP]",
            "a thing brand norda",
        ),
    ],
    ids=["both", "no title", "no triples", "neither", "triples hidden"],
)
def test_each_part_that_is_there_ends_in_a_separator(item, written, content):
    assert text(example(settings(), item)) == (written, content)


def test_without_it_the_text_is_the_title():
    found = example(settings(knowledge_text=False), record(1, TRIPLES, title="a thing"))
    assert text(found) == ("[CLS] a thing [SEP]", "a thing")


def test_neither_part_takes_the_others_room():
    lengths = Lengths(title=6, knowledge=10, triples=4, candidate=6)
    chosen = settings(lengths=lengths)
    item = record(1, TRIPLES * 3, title="red green blue black white grey pink")
    written, _ = text(example(chosen, item))
    assert written.startswith("[CLS] red green blue black [SEP] colour red brand norda colour")
    assert len(written.split()) == 6 + 10 - 1  # four whole triples, and [CLS] once
    assert batch_spec(chosen, 1)["title_tokens"][0] == (1, 16)


def test_triples_are_masked_and_asked_for_like_the_title():
    item = record(1, TRIPLES, title="a thing of wool")
    found = example(settings(rate=1.0), item)
    told = tokenizer()
    masked = found.title[found.title_content]
    assert (masked == told.mask).all()
    assert [told.token(i) for i in found.mlm_targets] == (
        ["a", "thing", "of", "wool", "colour", "red", "brand", "norda"]
    )
    plain = example(settings(), item).title
    np.testing.assert_array_equal(plain[found.mlm_positions], found.mlm_targets)
    np.testing.assert_array_equal(found.title_content[found.mlm_positions], True)


def test_the_batch_has_the_text_and_nothing_else():
    items, chosen = products(3), settings(rate=0.3)
    model = dataclasses.replace(chosen.model, vocabulary=0)
    image = dataclasses.replace(chosen.image, classes=0)
    chosen = inputs(memory_shards(items)).resolve(
        dataclasses.replace(chosen, model=model, image=image)
    )
    examples = [example(chosen, item, training=True) for item in items] + [None]
    batch = collate(examples, chosen, groups=(0,), seed=0)
    assert batch.keys() == {
        "title_tokens", "title_mask", "title_content",
        "mlm_positions", "mlm_targets", "mlm_weights",
    }  # fmt: skip
    assert batch["title_content"].sum(1).tolist() == [
        int(each.title_content.sum()) for each in examples[:3]
    ] + [0]
    assert batch["mlm_weights"].any(1).tolist() == [True] * 3 + [False]
    asked = np.take_along_axis(batch["title_content"], batch["mlm_positions"], 1)
    assert asked[batch["mlm_weights"] > 0].all()
