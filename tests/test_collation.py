import dataclasses
from itertools import count

import numpy as np
import pytest

from k3m_jax.data.input.batch import batch_spec
from k3m_jax.data.input.collate import collate, link_answers
from k3m_jax.data.input.examples import ExampleBuilder
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.regions import RegionReader
from k3m_jax.settings import Image, LinkPrediction, MaskedObject, Objectives
from tests.products import (
    detected,
    inputs,
    memory_shards,
    products,
    record,
    settings_for,
    tokenizer,
)
from tests.tiny import TINY, released

DETECTED = Image(front_end="regions", regions=4, feature_dim=6, top_classes=3)


def examples_of(records, settings, table=None, *, seed=0, training=True):
    table = table or ValueVocabulary.merge([memory_shards(records).values])
    read, prepare = RegionReader(settings.image), None
    prepare = ExampleBuilder(settings, tokenizer(), table, training=training)
    return [prepare(read(r), np.random.default_rng((seed, i))) for i, r in enumerate(records)]


def settings(**groups):
    return settings_for(inputs(memory_shards(products(4))), **groups)


def assert_matches_spec(batch, of, rows):
    spec = batch_spec(of, rows)
    assert batch.keys() == spec.keys()
    for name, (shape, dtype) in spec.items():
        assert (batch[name].shape, batch[name].dtype) == (shape, dtype), name


def test_a_batch_of_patches_is_as_described():
    s = settings()
    assert_matches_spec(collate(examples_of(products(8), s), s, count(), 0), s, 8)


def test_a_batch_of_detected_regions_is_as_described():
    s = dataclasses.replace(settings(), image=DETECTED)
    records = [r | detected(i, boxes=(5, 2, 4, 0)[i % 4]) for i, r in enumerate(products(8))]
    batch = collate(examples_of(records, s), s, count(), 0)
    assert_matches_spec(batch, s, 8)
    assert batch["region_mask"].sum(1).tolist() == [5, 3, 5, 0] * 2
    np.testing.assert_array_equal(batch["region_inputs"][1, :2], records[1]["features"])
    valid = batch["region_mask"][:, 1:]
    np.testing.assert_allclose(batch["class_probs"].sum(-1), valid, rtol=1e-6)
    assert not batch["mom_weights"][~valid].any()
    assert not batch["region_hidden"][~valid].any()
    boxes = batch["region_boxes"]
    assert (boxes[:, 0] == (0, 0, 1, 1, 1)).all()
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    np.testing.assert_allclose(boxes[..., 4], area, rtol=1e-6)


def test_regions_without_a_class_are_asked_for_only_where_no_class_is_needed():
    item = record(1, []) | detected(1) | {"class_probs": np.zeros((4, 3), np.float16)}
    for variant, asked in (("kl", 0), ("regression", 1)):
        mom = MaskedObject(variant=variant)
        objectives = dataclasses.replace(TINY.objectives, mom=mom, group=1)
        s = dataclasses.replace(settings(), image=DETECTED, objectives=objectives)
        batch = collate(examples_of([item], s), s, count(), 0)
        assert batch["mom_weights"].sum() == asked


def test_the_title_and_what_is_asked_of_it():
    s = settings()
    records = products(8)
    batch = collate(examples_of(records, s), s, count(), 0)
    t = tokenizer()
    for row, item in enumerate(records):
        tokens = batch["title_tokens"][row].copy()
        asked = batch["mlm_weights"][row] > 0
        assert asked.sum() == 1  # of 5 or 6 tokens, 15 %
        tokens[batch["mlm_positions"][row, asked]] = batch["mlm_targets"][row, asked]
        content = tokens[batch["title_content"][row]]
        assert content.tolist() == t.encode(item["title"])[:6]
        assert tokens[batch["title_mask"][row]].tolist() == [t.cls, *content, t.sep]


def test_a_long_title_is_cut_and_one_without_a_token_is_absent():
    s = settings()
    records = [record(0, [], title="red blue " * 50), record(1, [], title=" \u200b ")]
    batch = collate([*examples_of(records, s), None, None], s, count(), 0)
    assert batch["title_mask"].sum(1).tolist() == [8, 0, 0, 0]
    assert batch["title_content"].sum(1).tolist() == [6, 0, 0, 0]
    assert batch["title_tokens"][0, [0, 7]].tolist() == [tokenizer().cls, tokenizer().sep]


@pytest.mark.parametrize("title", [True, False])
@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("triples", [0, 1, 3])
def test_every_pattern_of_presence(title, picture, triples):
    pairs = [("colour", "red"), ("brand", "norda"), ("fibre", "silk")][:triples]
    item = record(1, pairs, title="red thing" if title else "")
    if not picture:
        item |= {"picture": b"", "class_ids": np.zeros(0, np.int32)}
    others = products(3)
    table = ValueVocabulary.merge([memory_shards([item, *others]).values])
    s = settings()
    batch = collate(examples_of([item, *others], s, table), s, count(), 0)
    row = {name: array[0] for name, array in batch.items()}
    assert row["title_content"].any() == row["title_mask"].any() == title
    assert row["mlm_weights"].any() == title
    assert row["region_mask"].any() == row["region_mask"][0] == picture
    assert row["mom_weights"].any() == picture
    # One triple is asked for, so that of one none is left to see.
    assert row["triple_mask"].sum() == max(0, triples - 1)
    assert row["knowledge_mask"].any() == (triples > 1)
    assert row["link_mask"].any() == (triples > 0)
    for name in ("link_value_weights", "link_item_weights"):
        assert row[name].any() == (triples > 0)


def test_rows_of_padding_are_absent_and_weigh_nothing():
    s = settings()
    batch = collate([*examples_of(products(3), s), None, *[None] * 4], s, count(), 0)
    assert_matches_spec(batch, s, 8)
    for name, array in batch.items():
        if name != "region_boxes":
            assert not array[3:].any(), name
    # The one row of the group that is padding is nobody's negative.
    assert not (batch["link_items"][:3][batch["link_item_weights"][:3] > 0] == 3).any()


def test_a_group_of_one_row_has_no_items_to_compare_with():
    objectives = Objectives(lpm=LinkPrediction(negative_values=2), group=1)
    s = dataclasses.replace(settings(), objectives=objectives)
    batch = collate(
        examples_of(products(1), s, inputs(memory_shards(products(9))).table), s, count(), 0
    )
    assert_matches_spec(batch, s, 1)
    assert not batch["link_item_weights"].any()
    assert batch["link_value_weights"].any()


def test_other_items_lie_in_the_rows_own_group():
    s = settings()
    records = products(32)
    examples = examples_of(records, s)
    batch = collate(examples, s, count(), 0)
    checked = 0
    for row, example in enumerate(examples):
        others = batch["link_items"][row][batch["link_item_weights"][row] > 0]
        for other in others + row // 4 * 4:
            assert records[other]["product"] != records[row]["product"]
            assert example.question.target not in examples[other].facts
            checked += 1
    assert checked > 16


def test_values_not_shown_still_rule_an_item_out():
    # All of 9 colours are row 1's, of which the model sees at most X = 4.
    many = record(1, [("colour", str(n)) for n in range(9)])
    few = record(2, [("colour", "7")])
    table = ValueVocabulary.merge([memory_shards([many, few]).values])
    for seed in range(20):
        s = settings()
        batch = collate(
            [*examples_of([many, few], s, table, seed=seed), None, None], s, count(seed), 0
        )
        assert not batch["link_item_weights"][1].any()


def test_the_answers_of_evaluation():
    fibres = [("fibre", "silk"), ("fibre", "wool"), ("fibre", "silk ")]
    records = [record(1, fibres), record(2, []), *products(2)]
    shards = memory_shards(records)
    table = ValueVocabulary.merge([shards.values])
    examples = examples_of(records, settings(), table, training=False)
    answers = link_answers([*examples, None])
    silk, wool = table.id("fibre", "silk"), table.id("fibre", "wool")
    assert answers["link_target"].dtype == answers["link_known"].dtype == np.int32
    assert answers["link_target"][0] in (silk, wool)
    assert answers["link_target"][[1, 4]].tolist() == [-1, -1]
    assert set(answers["link_known"][0].tolist()) - {-1} == {silk, wool}
    assert link_answers([None])["link_known"].shape == (1, 0)


def test_a_batch_of_the_release_preset_is_as_described():
    s = released(settings())
    records = [*products(2), record(5, [("colour", "red")]), record(6, [])]
    batch = collate([*examples_of(records, s), None, None, None, None], s, count(), 0)
    assert_matches_spec(batch, s, 8)
    asked = batch["value_weights"].astype(bool)
    assert (batch["knowledge_tokens"][asked] == tokenizer().mask).all()
    assert (batch["knowledge_tokens"] == tokenizer().mask).sum() == asked.sum()
    assert (batch["value_targets"][asked] != tokenizer().mask).all()
    # One triple is shown whole, and none has nothing to show.
    assert asked.any(1).tolist() == [True, True] + [False] * 6
    # A row with triples whose next is a product; the last of the group of four has the first.
    assert batch["pair_weights"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert not batch["mismatched"].any()


def test_an_item_of_more_than_ten_triples_and_one_alone_make_a_batch_of_the_release_preset():
    s = released(settings(objectives=Objectives(group=1)))
    many = record(0, [("colour", str(i)) for i in range(150)])
    (batch,) = (collate(examples_of([many], s), s, count(), 0),)
    assert batch["triple_mask"].sum() == 3  # [CLS], 3 x "colour : i ;", [SEP] in 16 tokens
    assert batch["pair_weights"].tolist() == [0]
