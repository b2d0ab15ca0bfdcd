"""From sources to batches: order, hosts, resumption, epochs, mixing, evaluation, mistakes."""

import dataclasses
import threading
from collections import Counter

import grain
import numpy as np
import pytest

from k3m_jax.data.input import pipeline
from k3m_jax.data.input.pipeline import (
    HostRows,
    count_classes,
    eval_batches,
    eval_items,
    inference_batches,
    open_inputs,
    train_batches,
    train_items,
    validate_sources,
)
from k3m_jax.data.records import ItemView
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.modalities.picture import Picture
from k3m_jax.settings import Data, Evaluation, MaskedObject, Training, UserError
from tests.products import (
    NO_PICTURE,
    having,
    inputs,
    memory_shards,
    products,
    record,
    settings_for,
    tokenizer,
)
from tests.tiny import DETECTED


@pytest.fixture(scope="module")
def given():
    return inputs(memory_shards(products(40), products(21, first=100)))


@pytest.fixture(scope="module")
def settings(given):
    return settings_for(given, training=Training(steps=6, batch=16, accumulation=1))


@pytest.fixture(scope="module")
def batches(given, settings):
    return list(train_batches(settings, given))


@pytest.fixture(scope="module")
def held_out(given, settings):
    return list(eval_batches(settings, given))


def changed(settings, group, **fields):
    return dataclasses.replace(
        settings, **{group: dataclasses.replace(getattr(settings, group), **fields)}
    )


def assert_equal(a, b, rows=slice(None)):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name][rows], b[name], err_msg=name)


def joined(parts):
    """Batches one after the other; the width of `link_known` is each batch's own."""
    names = parts[0].keys() - {"link_known"}
    return {name: np.concatenate([p[name] for p in parts]) for name in names}


def number(example):
    return int(example.view.record.id[2:])


@pytest.mark.parametrize(
    ("start", "hosts"),
    [
        (0, [(0,), (1,)]),
        (0, [(0, 2), (1, 3)]),
        (1, [(0,)]),
        (2, [(0,), (1,), (2,), (3,)]),
    ],
    ids=["2 hosts", "2 hosts of 2 blocks", "resumed", "resumed on 4 hosts"],
)
def test_hosts_together_have_the_same_batches_from_any_step(start, hosts, batches, given, settings):
    count = sum(map(len, hosts))
    for blocks in hosts:
        rows = np.arange(16).reshape(count, -1)[list(blocks)].ravel()
        run = train_batches(settings, given, start_step=start, rows=HostRows(blocks, count))
        for whole in batches[start:]:
            assert_equal(whole, next(run), rows)
        assert next(run, None) is None


@pytest.mark.slow  # worker processes start Python again
def test_worker_processes_change_nothing(batches, given, settings, monkeypatch):
    run = train_batches(changed(settings, "data", workers=2), given, start_step=1)
    for whole in batches[1:]:
        assert_equal(whole, next(run))
    run.close()
    monkeypatch.setattr(pipeline, "WORKER_ITEMS", 4)
    five = changed(settings, "evaluation", batch=4, products=5)
    found = list(eval_batches(changed(five, "data", workers=3), given))
    assert (found[-1]["link_target"] == -1).sum() == 3  # rows of padding
    for whole, other in zip(eval_batches(five, given), found, strict=True):
        assert_equal(whole, other)


def test_more_threads_change_nothing_and_read_at_the_same_time(batches, given, settings):
    """Each read of the first batches waits until a thread is at every one of them."""
    threads = 5
    meeting, met = threading.Barrier(threads, timeout=60), threading.Event()

    class Meeting(list):
        def __getitem__(self, index):
            if not met.is_set():
                meeting.wait()
                met.set()
            return super().__getitem__(index)

    shards = given.shard_sets[0]
    waiting = dataclasses.replace(
        shards, splits={**shards.splits, "train": Meeting(shards.splits["train"])}
    )
    some = given._replace(shard_sets=[waiting])
    found = list(train_batches(changed(settings, "data", threads=threads), some))
    for whole, other in zip(batches, found, strict=True):
        assert_equal(whole, other)


def test_a_run_can_see_its_first_batch_alone_or_those_of_another_seed(batches, given, settings):
    found = list(train_batches(changed(settings, "training", one_batch=True), given, start_step=3))
    assert len(found) == 3
    for batch in found:
        assert_equal(batch, batches[0])
    run = train_batches(dataclasses.replace(settings, seed=1), given)
    assert (next(run)["region_inputs"] != batches[0]["region_inputs"]).any()
    run.close()


def test_each_epoch_has_every_item_once_in_another_order_with_other_targets(given, settings):
    items = train_items(settings, given)
    orders, targets = [], {}
    for epoch in range(6):
        examples = [items[epoch * 40 + i] for i in range(40)]
        orders.append(tuple(map(number, examples)))
        for e in examples:
            query = e.targets["lpm"].query
            chosen = (*e.targets["mlm"]["mlm_positions"], *query, e.encoded["knowledge"].tokens)
            targets.setdefault(number(e), set()).add(chosen)
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len(set(orders)) == 6
    assert all(len(drawn) >= 4 for drawn in targets.values())


def test_sources_are_mixed_by_weight_and_each_is_seen_whole_in_an_order_of_its_own():
    few, many = memory_shards(products(30)), memory_shards(products(90, first=100))
    given = inputs(few, many)
    for weights, expected in (((), 0.25), ((1.0, 1.0), 0.5), ((0.9, 0.1), 0.9)):
        data = Data(sources=("few", "many"), weights=weights)
        items = train_items(settings_for(given, data=data), given)
        counts = Counter(number(items[i]) for i in range(240))
        of_few = [counts[i] for i in range(30)]
        assert abs(sum(of_few) / 240 - expected) < 0.01
        assert max(of_few) - min(of_few) <= 1
    given = inputs(memory_shards(products(20)), memory_shards(products(20, first=100)))
    items = train_items(settings_for(given), given)
    a, b = ([number(items[i]) % 100 for i in range(s, 40, 2)] for s in (0, 1))
    assert sorted(a) == sorted(b)
    assert a != b


def test_a_source_with_a_codebook_of_its_own_gets_the_classes_of_the_first_with_pictures():
    centres = np.random.default_rng(0).normal(size=(7, 80)).astype(np.float32)
    text_alone = memory_shards([record(200, [], picture=NO_PICTURE)], classes=1)
    damaged = record(104, [], picture=Picture(b"no picture", np.zeros(4, np.int32)))
    first, second = memory_shards(products(4)), memory_shards([*products(4, first=100), damaged])
    text_alone.codebook = Codebook(centres[:1], 4)
    first.codebook, second.codebook = Codebook(centres, 4), Codebook(centres[::-1], 4)
    given = inputs(text_alone, first, second)
    settings = settings_for(given)
    assert settings.image.classes == 7
    items = train_items(settings, given)
    pictured = [items[i] for i in range(30) if len(items[i].encoded["image"].boxes)]
    assert {*map(number, pictured)} == {*range(4), *range(100, 104)}
    for example in pictured:
        regions, wanted = example.encoded["image"], example.view.record.contents["image"].class_ids
        if number(example) >= 100:
            wanted = first.codebook.assign(regions.inputs)
        np.testing.assert_array_equal(regions.class_ids[:, 0], wanted)


# Evaluation and inference.


def test_evaluation_is_one_pass_in_stored_order_with_padding_at_the_end(held_out, given):
    rows = joined(held_out)
    assert [len(b["title_mask"]) for b in held_out] == [16, 16]
    lengths = [len(tokenizer().encode(r.title)[:6]) for r in given.shard_sets[0].source("valid")]
    assert rows["title_content"].sum(1).tolist() == lengths + [0] * 11
    assert ((rows["link_target"] >= 0) == (np.arange(32) < 21)).all()


def test_evaluation_has_the_same_targets_whatever_the_batch_and_the_seed(held_out, given, settings):
    small = dataclasses.replace(settings, evaluation=Evaluation(batch=4), seed=3)
    parts = list(eval_batches(small, given))
    assert len(parts) == 6
    assert_equal(joined(held_out), joined(parts), slice(24))


def test_hosts_evaluate_contiguous_rows(held_out, given, settings):
    halves = [eval_batches(settings, given, rows=HostRows((i,), 2)) for i in range(2)]
    for whole, *parts in zip(held_out, *halves, strict=True):
        assert_equal(joined([whole]), joined(parts))


def test_evaluation_can_stop_early_and_take_another_split(given, settings):
    five = changed(settings, "evaluation", batch=4, products=5)
    assert [(b["link_target"] >= 0).sum() for b in eval_batches(five, given)] == [4, 1]
    assert len(eval_items(changed(settings, "data", valid_split="train"), given)) == 40


def test_each_of_several_sources_gives_its_share_of_a_limited_evaluation(settings):
    given = inputs(
        memory_shards(products(4), products(30, first=100)),
        memory_shards(products(4)),  # nothing held out
        memory_shards(products(4), products(90, first=300)),
    )
    for limit, shares in ((8, (2, 6)), (10, (3, 7)), (1, (1, 0)), (120, (30, 90)), (500, (30, 90))):
        some = changed(settings, "evaluation", batch=4, products=limit)
        items = eval_items(some, given)
        expected = [*range(100, 100 + shares[0]), *range(300, 300 + shares[1])]
        assert [number(items[i]) for i in range(len(items))] == expected, limit


@pytest.mark.parametrize(("limit", "started"), [(0, [3]), (8, [1]), (7, [1]), (4, [])])
def test_evaluation_starts_no_more_workers_than_save_time(
    limit, started, given, settings, monkeypatch
):
    found = []

    def start(dataset, options, _):
        found.append(options.num_workers)
        return dataset

    monkeypatch.setattr(grain.IterDataset, "mp_prefetch", start)
    monkeypatch.setattr(pipeline, "WORKER_ITEMS", 8)
    some = changed(changed(settings, "data", workers=9), "evaluation", batch=4, products=limit)
    assert next(eval_batches(some, given))["title_mask"].any()
    assert found == started


def test_inference_hides_nothing_and_ends_with_rows_of_padding(given, settings):
    four = changed(settings, "evaluation", batch=4)
    views = list(map(ItemView.of, products(6)))
    rows = joined(list(inference_batches(four, [views], given.tokenizer)))
    assert rows["title_mask"].any(1).tolist() == [True] * 6 + [False] * 2
    triples = [min(4, len(r.triples)) for r in products(6)]
    assert rows["triple_mask"].sum(1).tolist() == [*triples, 0, 0]
    assert not (rows["title_tokens"] == tokenizer().mask).any()


# Mistakes.


def reported(message, call):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_errors_name_the_setting(given, settings):
    reported("data.sources", lambda: open_inputs(Data()))
    reported(
        "training.batch 16 .* 8 .* objectives.group 4",
        lambda: train_batches(settings, given, rows=HostRows((0,), 8)),
    )
    nothing = inputs(memory_shards([], products(1)))
    reported("data.train_split: memory .* 'train'", lambda: train_items(settings, nothing))
    reported(
        "data.valid_split: .* 'test', only train, valid",
        lambda: eval_items(changed(settings, "data", valid_split="test"), given),
    )


@pytest.mark.parametrize(
    ("key", "ours", "stored"),
    [("patch_size", 4, 8), ("regions", 4, 9), ("front_end", "patches", "regions")],
)
def test_shards_of_other_sizes_are_refused(key, ours, stored, settings):
    other = memory_shards(products(2), **{key: stored})
    if key != "front_end":  # without any picture the sizes do not matter
        pictureless = [having(r, image=NO_PICTURE) for r in products(2)]
        validate_sources(settings, [memory_shards(pictureless, **{key: stored})])
    message = f"image.{key} is {ours}, but memory was built with {stored}"
    reported(message, lambda: validate_sources(settings, [other]))


def test_regions_of_several_detectors_or_of_no_class_are_refused():

    def shards(count, top_classes=3):
        info = {"front_end": "regions", "feature_dim": 6, "top_classes": top_classes}
        return memory_shards(products(2), classes=count, **info)

    none = shards(0, 0)
    reported("data.sources", lambda: validate_sources(DETECTED, [shards(5), shards(6)]))
    # One class per region, and the largest id seen in each: that may be one detector.
    one_class = [shards(5, 1), shards(6, 1)]
    validate_sources(DETECTED, one_class)
    assert count_classes(one_class) == 6
    reported("objectives.mom.variant is 'kl'", lambda: validate_sources(DETECTED, [none]))
    other = changed(DETECTED, "objectives", mom=MaskedObject(variant="regression"))
    validate_sources(other, [none])
