import dataclasses
import threading
from collections import Counter

import grain
import numpy as np
import pytest

from k3m_jax.data.input import pipeline
from k3m_jax.data.input.batch import batch_spec
from k3m_jax.data.input.pipeline import (
    eval_batches,
    eval_items,
    open_inputs,
    train_batches,
    train_items,
)
from k3m_jax.data.input.sources import classes, validate_sources
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Data, Evaluation, Lengths, MaskedObject, Training, UserError
from tests.products import (
    detected,
    inputs,
    memory_shards,
    products,
    record,
    settings_for,
    tokenizer,
)
from tests.tiny import TINY


@pytest.fixture(scope="module")
def given():
    return inputs(memory_shards(products(40), products(21, first=100)))


@pytest.fixture(scope="module")
def settings(given):
    return settings_for(given, training=Training(steps=6, batch=16, accumulation=1))


@pytest.fixture(scope="module")
def batches(given, settings):
    return list(train_batches(settings, *given))


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(parts):
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def test_batches_are_as_described_and_end_with_the_run(batches, settings):
    assert len(batches) == 6
    for batch in batches:
        for name, (shape, dtype) in batch_spec(settings, 16).items():
            assert (batch[name].shape, batch[name].dtype) == (shape, dtype), name


@pytest.mark.parametrize("shards", [2, 4])
def test_hosts_together_have_the_same_batch_in_the_same_order(shards, batches, given, settings):
    parts = [train_batches(settings, *given, blocks=(i,), shards=shards) for i in range(shards)]
    for whole, split in zip(batches, zip(*parts, strict=True), strict=True):
        assert_equal(whole, joined(split))


def test_a_host_may_have_several_blocks(batches, given, settings):
    squares = [(0, 2), (1, 3)]
    parts = [train_batches(settings, *given, blocks=blocks, shards=4) for blocks in squares]
    for whole, split in zip(batches, zip(*parts, strict=True), strict=True):
        for blocks, part in zip(squares, split, strict=True):
            rows = np.arange(16).reshape(4, 4)[list(blocks)].ravel()
            assert_equal({name: array[rows] for name, array in whole.items()}, part)


@pytest.mark.parametrize(("start", "shards"), [(1, 1), (1, 4), (2, 2), (4, 2), (4, 4)])
def test_a_run_goes_on_where_it_stopped_on_any_number_of_hosts(
    start, shards, batches, given, settings
):
    resumed = [
        train_batches(settings, *given, start_step=start, blocks=(i,), shards=shards)
        for i in range(shards)
    ]
    rest = [joined(parts) for parts in zip(*resumed, strict=True)]
    assert len(rest) == len(batches) - start
    for whole, found in zip(batches[start:], rest, strict=True):
        assert_equal(whole, found)


def test_the_state_is_the_next_step(given, settings):
    run = train_batches(settings, *given, start_step=2)
    assert run.state == {"next_index": 2}
    next(run)
    assert run.state == {"next_index": 3}
    run.close()


@pytest.mark.slow  # worker processes start Python anew
def test_worker_processes_change_nothing(batches, given, settings):
    data = dataclasses.replace(settings.data, workers=2)
    run = train_batches(dataclasses.replace(settings, data=data), *given, start_step=1)
    for whole in batches[1:]:
        assert_equal(whole, next(run))
    run.close()


def test_more_threads_change_nothing(batches, given, settings):
    data = dataclasses.replace(settings.data, threads=5)
    run = train_batches(dataclasses.replace(settings, data=data), *given, start_step=1)
    for whole in batches[1:]:
        assert_equal(whole, next(run))


def test_threads_wait_for_reads_side_by_side(settings):
    """Each read of the first batches waits until a thread is at every one of them."""
    threads = 5
    given = inputs(memory_shards(products(40)))
    meeting = threading.Barrier(threads, timeout=60)

    class Meeting(list):
        def __getitem__(self, index):
            if not self.met.is_set():
                meeting.wait()
                self.met.set()
            return super().__getitem__(index)

        met = threading.Event()

    shards = given.shard_sets[0]
    shards.splits["train"] = Meeting(shards.splits["train"])
    data = dataclasses.replace(settings.data, threads=threads)
    run = train_batches(dataclasses.replace(settings, data=data), *given)
    assert len(list(run)) == 6


def test_a_run_can_see_its_first_batch_alone(batches, given, settings):
    training = dataclasses.replace(settings.training, one_batch=True)
    run = train_batches(dataclasses.replace(settings, training=training), *given, start_step=3)
    found = list(run)
    assert len(found) == 3
    for batch in found:
        assert_equal(batch, batches[0])


def test_another_seed_gives_another_run(batches, given, settings):
    other = next(train_batches(dataclasses.replace(settings, seed=1), *given))
    assert (other["region_inputs"] != batches[0]["region_inputs"]).any()


def test_each_item_comes_once_an_epoch_in_an_order_of_its_own(given, settings):
    items = train_items(settings, *given)
    epochs = [[items[e * 40 + i].record["id"] for i in range(40)] for e in range(3)]
    everything = {r["id"] for r in given.shard_sets[0].source("train")}
    assert all(set(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_masks_and_questions_are_drawn_anew_each_epoch(given, settings):
    items = train_items(settings, *given)
    visits = {}
    for i in range(40 * 6):
        e = items[i]
        draw = (*e.mlm_positions, e.question.target, e.question.false, e.knowledge.tokens)
        visits.setdefault(e.record["id"], set()).add(draw)
    assert all(len(draws) >= 4 for draws in visits.values())


def test_sources_are_mixed_by_weight_and_each_is_seen_whole():
    few, many = memory_shards(products(30)), memory_shards(products(90, first=100))
    given = inputs(few, many)
    for weights, expected in (((), 0.25), ((1.0, 1.0), 0.5), ((0.9, 0.1), 0.9)):
        data = Data(sources=("few", "many"), weights=weights)
        items = train_items(settings_for(given, data=data), *given)
        ids = Counter(items[i].record["id"] for i in range(240))
        of_few = [ids[r["id"]] for r in few.source("train")]
        assert abs(sum(of_few) / 240 - expected) < 0.01
        assert max(of_few) - min(of_few) <= 1


def test_sources_of_one_length_do_not_move_in_step():
    given = inputs(memory_shards(products(20)), memory_shards(products(20, first=100)))
    items = train_items(settings_for(given), *given)
    a, b = ([int(items[i].record["id"][2:]) % 100 for i in range(s, 40, 2)] for s in (0, 1))
    assert sorted(a) == sorted(b)
    assert a != b


def test_a_source_with_a_codebook_of_its_own_gets_the_classes_of_the_first_with_pictures():
    centres = np.random.default_rng(0).normal(size=(7, 80)).astype(np.float32)
    first, second = memory_shards(products(4)), memory_shards(products(4, first=100))
    first.codebook, second.codebook = Codebook(centres, 4), Codebook(centres[::-1], 4)
    pictureless = [record(200, [], picture=b"", class_ids=np.zeros(0, np.int32))]
    text_alone = memory_shards(pictureless, classes=1)
    text_alone.codebook = Codebook(centres[:1], 4)
    given = inputs(text_alone, first, second)
    settings = settings_for(given)
    assert settings.image.classes == 7
    items = train_items(settings, *given)
    for i in range(9):
        record_, regions = items[i].record, items[i].regions
        if regions is None:
            continue
        wanted = record_["class_ids"]
        if int(record_["id"][2:]) >= 100:
            wanted = first.codebook.assign(regions.inputs)
        np.testing.assert_array_equal(regions.class_ids[:, 0], wanted)


def test_the_answer_cannot_be_read_off_the_knowledge():
    """The asked pair is gone in every spelling; other values of its property stay."""
    numbers = [str(n) for n in range(100, 140)]
    records = [
        record(n, [("fibre", v), ("Fibre", f" {v} "), ("colour", "red"), ("FIBRE", "silk")])
        for n, v in enumerate(numbers)
    ]
    given = inputs(memory_shards(records))
    items = train_items(settings_for(given, lengths=Lengths(8, 16, 8, 6)), *given)
    stayed = 0
    for i in range(200):
        e = items[i]
        name, value = given.table.pairs[e.question.target]
        text = tokenizer().decode(e.knowledge.tokens)
        assert normalised(value) not in text.split()
        own = e.record["values"][0]
        if normalised(value) != own:
            assert text.split().count(own) == 2  # in both of its spellings
            stayed += 1
        elif name == "fibre":
            assert "silk" in text
    assert stayed > 50


def test_an_answer_with_other_accents_cannot_be_read_off_the_knowledge_either():
    """The tokenizer drops accents, and so makes one text of what the table holds as two values."""
    triples = [("colour", "réd"), ("colour", "red"), ("fibre", "silk")]
    given = inputs(memory_shards([record(n, triples) for n in range(8)]))
    assert given.tokenizer.encode("réd") == given.tokenizer.encode("red")
    items = train_items(settings_for(given), *given)
    asked = set()
    for i in range(60):
        name, value = given.table.pairs[items[i].question.target]
        asked.add(value)
        if name == "colour":
            text = tokenizer().decode(items[i].knowledge.tokens)
            assert "red" not in text
            assert "silk" in text
    assert {"réd", "red"} <= asked


def test_a_false_value_that_reads_like_a_true_one_is_no_negative():
    """Both are cut to the same tokens; there is nothing to tell them apart by."""
    long = "red green blue black white grey pink"
    records = [record(n, [("colour", f"{long} {n}")]) for n in range(6)]
    records += [record(9, [("colour", "gold")])]
    given = inputs(memory_shards(records))
    items = train_items(settings_for(given, lengths=Lengths(8, 16, 4, 6)), *given)
    counts = set()
    for i in range(70):
        texts = items[i].candidates
        readings = [texts.reading(row) for row in range(len(texts.tokens))]
        assert readings[0] not in readings[1:]
        counts.add((items[i].record["values"][0] == "gold", len(readings)))
    assert {n for gold, n in counts if gold} == {3}  # the true one and two false ones
    assert {n for gold, n in counts if not gold} <= {1, 2}  # gold is the only other reading


def test_an_item_of_158_triples_shows_them_all_in_time():
    values = [str(n) for n in range(158)]
    given = inputs(memory_shards([record(0, [("colour", v) for v in values])]))
    model = dataclasses.replace(TINY.model, positions=32)
    settings = settings_for(given, lengths=Lengths(8, 32, 24, 6), model=model)
    items = train_items(settings, *given)
    shown, asked = set(), set()
    for epoch in range(200):
        e = items[epoch]
        text = e.knowledge
        assert len(text.tokens) <= 32
        shown |= {tokenizer().decode(text.tokens[a:b]) for a, b in text.value_spans}
        asked.add(e.question.target)
    assert shown == set(values)
    assert len(asked) > 100


def test_broken_pictures_do_not_end_a_run():
    broken = [r | {"picture": r["picture"][:60]} for r in products(8)]
    given = inputs(memory_shards(broken))
    batch = next(train_batches(settings_for(given, training=Training(batch=8)), *given))
    assert not batch["region_mask"].any()
    assert batch["title_mask"].any()


def test_detected_regions_go_the_same_way():
    records = [r | detected(i) for i, r in enumerate(products(8))]
    given = inputs(memory_shards(records, front_end="regions", feature_dim=6, classes=5))
    image = dataclasses.replace(TINY.image, front_end="regions", feature_dim=6)
    settings = settings_for(given, image=image, training=Training(batch=8))
    batch = next(train_batches(settings, *given))
    assert batch["region_inputs"].dtype == np.float16
    assert batch["region_mask"].all()
    assert settings.image.classes == 5


# Evaluation.


def test_evaluation_is_one_pass_in_stored_order_with_padding_at_the_end(given, settings):
    found = list(eval_batches(settings, *given))
    rows = joined([{k: v for k, v in b.items() if k != "link_known"} for b in found])
    assert [len(b["title_mask"]) for b in found] == [16, 16]
    titles = [tokenizer().encode(r["title"])[:6] for r in given.shard_sets[0].source("valid")]
    assert rows["title_content"].sum(1).tolist() == [len(t) for t in titles] + [0] * 11
    assert (rows["link_target"][:21] >= 0).all()
    assert (rows["link_target"][21:] == -1).all()


def test_evaluation_asks_the_same_of_an_item_whatever_the_batch_and_the_seed(given, settings):
    small = dataclasses.replace(settings, evaluation=Evaluation(batch=4), seed=3)
    large = list(eval_batches(settings, *given))
    parts = list(eval_batches(small, *given))
    assert len(parts) == 6
    for name in large[0]:
        if name != "link_known":  # padded to the width of its batch
            whole, split = (np.concatenate([b[name] for b in found]) for found in (large, parts))
            np.testing.assert_array_equal(whole[:21], split[:21], err_msg=name)


def test_hosts_evaluate_contiguous_rows(given, settings):
    for whole, *parts in zip(
        eval_batches(settings, *given),
        *(eval_batches(settings, *given, blocks=(i,), shards=2) for i in range(2)),
        strict=True,
    ):
        for part in (whole, *parts):
            part.pop("link_known")
        assert_equal(whole, joined(parts))


def test_evaluation_can_stop_early_and_take_another_split(given, settings):
    five = dataclasses.replace(settings, evaluation=Evaluation(batch=4, products=5))
    found = list(eval_batches(five, *given))
    assert [(b["link_target"] >= 0).sum() for b in found] == [4, 1]
    assert len(eval_items(settings, *given, split="train")) == 40


def test_of_several_sources_each_gives_its_share_of_what_is_measured(settings):
    given = inputs(
        memory_shards(products(4), products(30, first=100)),
        memory_shards(products(4), products(90, first=300)),
    )
    for limit, shares in ((8, (2, 6)), (10, (3, 7)), (1, (1, 0)), (120, (30, 90)), (500, (30, 90))):
        some = dataclasses.replace(settings, evaluation=Evaluation(batch=4, products=limit))
        items = eval_items(some, *given)
        numbers = [int(items[i].record["id"][2:]) for i in range(len(items))]
        expected = [*range(100, 100 + shares[0]), *range(300, 300 + shares[1])]
        assert numbers == expected, limit


@pytest.mark.slow  # worker processes start Python anew
@pytest.mark.parametrize(("limit", "workers"), [(0, 2), (5, 3)])
def test_worker_processes_evaluate_the_same(limit, workers, given, settings, monkeypatch):
    monkeypatch.setattr(pipeline, "WORKER_ITEMS", 4)
    several = dataclasses.replace(settings, evaluation=Evaluation(batch=4, products=limit))
    expected = list(eval_batches(several, *given))
    data = dataclasses.replace(settings.data, workers=workers)
    found = list(eval_batches(dataclasses.replace(several, data=data), *given))
    assert (found[-1]["link_target"] == -1).sum() == 3  # filled up
    for whole, other in zip(expected, found, strict=True):
        assert_equal(whole, other)


@pytest.mark.parametrize(("limit", "started"), [(0, [3]), (8, [1]), (7, [1]), (4, [])])
def test_evaluation_starts_as_many_workers_as_are_worth_their_beginning(
    limit, started, given, settings, monkeypatch
):
    found = []

    def start(dataset, options, _):
        found.append(options.num_workers)
        return dataset

    monkeypatch.setattr(grain.IterDataset, "mp_prefetch", start)
    monkeypatch.setattr(pipeline, "WORKER_ITEMS", 8)
    data = dataclasses.replace(settings.data, workers=9)
    evaluation = Evaluation(batch=4, products=limit)
    some = dataclasses.replace(settings, data=data, evaluation=evaluation)
    assert next(eval_batches(some, *given))["title_mask"].any()
    assert found == started


def test_a_source_without_held_out_items_is_left_out_of_evaluation(settings):
    given = inputs(memory_shards(products(4)), memory_shards(products(4), products(3, first=100)))
    assert len(eval_items(settings_for(given), *given)) == 3


# Mistakes.


def told(message, call):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_mistakes_are_told_by_their_key(given, settings):
    told("data.sources is empty", lambda: open_inputs(Data()))
    told(
        "training.batch 16 is not a multiple of 8 blocks that processes read x objectives.group 4",
        lambda: train_batches(settings, *given, blocks=(0,), shards=8),
    )
    told(
        "data.train_split: memory has no items in a split 'train'",
        lambda: train_items(settings, *inputs(memory_shards([], products(1)))),
    )
    told(
        "data.valid_split: no source has items in a split 'test', only in train, valid",
        lambda: eval_items(settings, *given, split="test"),
    )


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"patch_size": 8}, "image.patch_size is 4, but memory was built with 8"),
        ({"regions": 9}, "image.regions is 4, but memory was built with 9"),
        ({"front_end": "regions"}, "image.front_end is patches, but memory was built with regions"),
    ],
)
def test_shards_of_other_sizes_are_refused(info, message, settings):
    other = inputs(memory_shards(products(2), **info))
    told(message, lambda: validate_sources(settings, other.shard_sets))


def test_sizes_do_not_matter_where_there_is_no_picture(settings):
    pictureless = memory_shards([r | {"picture": b""} for r in products(2)], patch_size=8)
    validate_sources(settings, [pictureless])


def test_regions_of_several_detectors_or_of_no_class_are_refused():
    image = dataclasses.replace(TINY.image, front_end="regions", feature_dim=6)
    settings = dataclasses.replace(TINY, image=image)

    def shards(count, top_classes=3):
        info = {"front_end": "regions", "feature_dim": 6, "top_classes": top_classes}
        return memory_shards(products(2), classes=count, **info)

    none = shards(0, 0)
    told("different detectors", lambda: validate_sources(settings, [shards(5), shards(6)]))
    # One class per region, and the largest id seen in each: that may be one detector.
    one_class = [shards(5, 1), shards(6, 1)]
    validate_sources(settings, one_class)
    assert classes(one_class) == 6
    told("objectives.mom.variant is 'kl'", lambda: validate_sources(settings, [none]))
    objectives = dataclasses.replace(TINY.objectives, mom=MaskedObject(variant="regression"))
    validate_sources(dataclasses.replace(settings, objectives=objectives), [none])
