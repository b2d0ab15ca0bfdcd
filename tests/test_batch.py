"""Batches: what every layout has in common."""

import dataclasses
import pickle

import numpy as np
import pytest

from k3m_jax.data.input.batch import BatchLayout, ExampleBuilder
from k3m_jax.data.records import ItemView
from tests.products import (
    NO_PICTURE,
    collated,
    detected,
    examples_of,
    having,
    inputs,
    memory_shards,
    products,
    record,
    tokenizer,
)
from tests.tiny import DETECTED, TINY, baseline, released

LAYOUTS = {
    "patches": TINY,
    "regions": DETECTED,
    "release": released(TINY),
    "title": baseline("bert"),
    "title and triples": baseline("bert", knowledge_text=True),
    "title and picture": baseline("vilbert"),
}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("settings", LAYOUTS.values(), ids=LAYOUTS)
def test_a_batch_has_the_described_arrays_and_rows_of_padding_change_nothing(settings):
    items = products(3)
    if settings.image.front_end == "regions":
        items = [having(item, image=detected(i)) for i, item in enumerate(items)]
    examples = examples_of(items, settings)
    batch = collated([*examples, None], settings)
    padded = collated([*examples, *[None] * 5], settings)
    for rows, made in ((4, batch), (8, padded)):
        spec = BatchLayout.of(settings).spec(rows)
        assert {name: (a.shape, a.dtype) for name, a in made.items()} == spec
        for name, array in made.items():
            assert array[:3].any() or name in ("mismatched", "link_item_weights"), name
            assert not array[3:].any() or name == "region_boxes", name
    assert_equal(batch, {name: array[:4] for name, array in padded.items()})


@pytest.mark.parametrize("title", [True, False])
@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("triples", [0, 1, 3])
def test_every_pattern_of_presence(title, picture, triples):
    pairs = [("colour", "red"), ("brand", "norda"), ("fibre", "silk")]
    complete, others = record(1, pairs, title="red thing"), products(3)
    present = {"title": title, "image": picture, "knowledge": pairs[:triples]}
    empty = {"title": "", "image": NO_PICTURE, "knowledge": ()}
    item = having(complete, **{name: empty[name] for name in empty if not present[name]})
    if triples:
        item = having(item, knowledge=tuple(pairs[:triples]))
    vocabulary = inputs(memory_shards([complete, *others])).vocabulary
    rows = []
    for first in (item, complete):
        batch = collated(examples_of([first, *others], TINY, vocabulary), TINY)
        rows.append({name: array[0] for name, array in batch.items()})
    row, full = rows
    assert row["title_content"].any() == row["title_mask"].any() == title
    assert row["mlm_weights"].any() == title
    assert row["region_mask"].any() == row["region_mask"][0] == picture
    assert row["mom_weights"].any() == picture
    # One triple is queried, so that of one none is left visible.
    assert row["triple_mask"].sum() == max(0, triples - 1)
    assert row["knowledge_mask"].any() == (triples > 1)
    for name in ("link_mask", "link_value_weights", "link_item_weights"):
        assert row[name].any() == (triples > 0)
    # What is there does not depend on what is missing.
    same = {"title_": title, "mlm_": title, "region_": picture, "mom_": picture, "class_": picture}
    for name in row:
        if any(there and name.startswith(prefix) for prefix, there in same.items()):
            np.testing.assert_array_equal(row[name], full[name], err_msg=name)


def test_a_batch_of_one_item():
    alone = dataclasses.replace(TINY, objectives=dataclasses.replace(TINY.objectives, group=1))
    vocabulary = inputs(memory_shards(products(9))).vocabulary
    batch = collated(examples_of(products(1), alone, vocabulary), alone)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == BatchLayout.of(alone).spec(1)
    assert batch["link_value_weights"].any()
    assert not batch["link_item_weights"].any()


def test_inference_has_any_number_of_rows_and_no_targets():
    layout = BatchLayout.for_inference(TINY)
    build = ExampleBuilder(layout, tokenizer())
    examples = [build(ItemView.of(r), np.random.default_rng(0)) for r in products(3)]
    batch = layout.collate(examples)
    assert batch.keys() == layout.products.keys() == BatchLayout.of(TINY).products.keys()
    assert not (batch["title_tokens"] == tokenizer().mask).any()
    assert batch["triple_mask"].sum(1).tolist() == [min(4, len(r.triples)) for r in products(3)]


def test_what_only_the_host_reads_does_not_reach_the_devices():
    layout, examples = BatchLayout.of(TINY), examples_of(products(4), TINY, training=False)
    batch = layout.collate(examples)
    whole = layout.collate(examples, evaluation=True)
    assert whole.keys() - batch.keys() == {"link_target", "link_known"}
    assert_equal({name: whole[name] for name in layout.arrays}, batch)


@pytest.mark.parametrize("settings", [TINY, released(TINY)], ids=["paper", "release"])
def test_builders_of_examples_pickle(settings):
    vocabulary = inputs(memory_shards(products(8))).vocabulary
    layout = BatchLayout.of(settings)
    build = ExampleBuilder(layout, tokenizer(), vocabulary, training=True)
    copy = pickle.loads(pickle.dumps(build))
    batches = [
        layout.collate([make(ItemView.of(r), np.random.default_rng(7)) for r in products(4)], [0])
        for make in (build, copy)
    ]
    assert_equal(*batches)
