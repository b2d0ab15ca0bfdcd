"""What tasks ask of items, and that nothing of the answer is left in what these show."""

import dataclasses
import pickle

import numpy as np
import pytest

from k3m_jax.data.catalog.pairs import Pair
from k3m_jax.data.input.embedding_batches import embedding_batches
from k3m_jax.data.input.pipeline import EVALUATION_SEED
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Corruption, Task, UserError
from k3m_jax.tasks import examples
from k3m_jax.tasks.source import TaskSource
from k3m_jax.tasks.split import TaskSplit
from tests import products as made
from tests.tiny import TINY

CLEAN = Corruption()


def shards_of(train, valid=(), pairs=(), views=None):
    """In memory, with labelled pairs."""
    shards = made.memory_shards(train, valid)
    shards.pairs, shards.views = list(pairs), views or {}
    return shards


@pytest.fixture(scope="module")
def shards():
    items = made.products(24)
    for i, item in enumerate(items):
        item |= {"category": ("cups", "pots")[i % 3 == 0], "source": ("shop", "grocer")[i % 2]}
    ids = [item["id"] for item in items]
    pairs = [Pair("train", ids[0], ids[1], 1, "", "", "v"), Pair("train", *ids[1:3], 0, "", "", "")]
    return shards_of(items[:16], items[16:], pairs, {"v": made.jpeg(99)})


@pytest.fixture(scope="module")
def given(shards):
    return made.inputs(shards)


def asked(shards, given, split="train", **task):
    return examples.task_dataset(Task(**task), shards, split, given.table)


def records(shards, found, corruption=CLEAN, split="train", seed=0):
    return list(TaskSource(shards, split, found, corruption, seed))


def batch_of(shards, given, found, corruption=CLEAN, **settings):
    source = TaskSource(shards, "train", found, corruption, 0)
    settings = made.settings_for(given, **settings)
    parts = list(embedding_batches(settings, [source], given.tokenizer))
    return {k: np.concatenate([p[k] for p in parts])[: len(source)] for k in parts[0]}


def test_questions_ask_for_all_properties_and_know_all_true_values(shards, given):
    found = asked(shards, given, name="questions", questions=0)
    per_item = [len(set(item["properties"])) for item in shards.source("train")]
    assert len(found.rows) == sum(per_item) - found.left_out.get(
        "with nothing beside the true values", 0
    )
    for row, known, label in zip(found.rows, found.known, found.labels, strict=True):
        item = shards.source("train")[row.item]
        true = {
            v for p, v in zip(item["properties"], item["values"], strict=True) if p == row.asked
        }
        assert {given.table.pairs[i] for i in known} == {(row.asked, v) for v in true}
        assert label in known


def test_a_limit_leaves_out_questions_and_changes_none(shards, given):
    every = asked(shards, given, name="questions", questions=0)
    some = asked(shards, given, name="questions", questions=2)
    assert set(some.rows) < set(every.rows)
    counts = np.bincount([row.item for row in some.rows])
    assert counts.max() == 2


@pytest.mark.parametrize("setting", ["TMR", "TNR", "INR", "KNR", "MNR"])
def test_the_property_asked_for_stands_nowhere_in_what_the_model_reads(shards, given, setting):
    found = asked(shards, given, name="questions", questions=0)
    batch = batch_of(shards, given, found, Corruption(setting, 1.0))
    texts = [given.tokenizer.decode(row) for row in batch["knowledge_tokens"]]
    assert any(texts)
    for row, text in zip(found.rows, texts, strict=True):
        values = {v for p, v in given.table.pairs if p == row.asked}
        assert not set(text.split()) & {row.asked, *values}


def test_nor_in_the_text_of_a_baseline_that_reads_triples(shards, given):
    found = asked(shards, given, name="questions", questions=0, shown=("image", "knowledge"))
    keys = {"preset": "bert", "knowledge_text": True, "positions": 32}
    model = dataclasses.replace(TINY.model, **keys)
    batch = batch_of(shards, given, found, model=model)
    texts = [given.tokenizer.decode(row) for row in batch["title_tokens"]]
    assert any(texts)
    for row, text in zip(found.rows, texts, strict=True):
        values = {v for p, v in given.table.pairs if p == row.asked}
        assert not set(text.split()) & {row.asked, *values}


def test_titles_stay_as_they_are(shards, given):
    found = asked(shards, given, name="questions")
    for row, record in zip(found.rows, records(shards, found), strict=True):
        assert record["title"] == shards.source("train")[row.item]["title"]


def test_classes_are_the_training_items(shards, given):
    task = Task(name="classification")
    names = examples.class_names(task, shards.source("train"))
    assert names == ("cups", "pots")
    found = asked(shards, given, name="classification", classes=("pots",))
    wanted = [0 if item["category"] == "pots" else -1 for item in shards.source("train")]
    assert found.labels.tolist() == wanted


def test_a_property_that_is_the_label_is_hidden(shards, given):
    task = Task(name="classification", label="Colour")
    names = examples.class_names(task, shards.source("train"))
    found = asked(shards, given, name="classification", label="Colour", classes=names)
    assert len(found.products) == 16
    for row, record in zip(found.rows, records(shards, found), strict=True):
        colour = shards.source("train")[row.item]["values"][0]
        assert names[row.label] == colour
        assert "colour" not in dict(record["told"])
        assert "brand" in dict(record["told"])


def test_several_values_are_no_class(shards, given):
    found = asked(shards, given, name="classification", label="fibre", classes=("wool",))
    single = [
        i for i, item in enumerate(shards.source("train")) if item["properties"].count("fibre") == 1
    ]
    assert [row.item for row in found.rows] == single
    with pytest.raises(UserError, match="no training item has one value"):
        examples.class_names(Task(label="size"), shards.source("train"))
    with pytest.raises(UserError, match="no training item of the catalogues luma has one value"):
        examples.class_names(Task(catalogues=("luma",)), shards.source("train"))


def test_what_is_hidden_is_hidden(shards, given):
    task = {"name": "classification", "classes": ("cups", "pots")}
    found = asked(shards, given, **task, shown=("knowledge",), hidden_properties=("BRAND",))
    batch = batch_of(shards, given, found)
    assert not batch["title_content"].any()
    assert not batch["region_mask"].any()
    texts = [given.tokenizer.decode(row) for row in batch["knowledge_tokens"]]
    assert all("colour" in text for text in texts)
    assert not any({"brand", *made.BRANDS} & set(text.split()) for text in texts)


def test_items_of_other_catalogues_take_no_part(shards, given):
    found = asked(shards, given, name="questions", catalogues=("grocer",))
    assert {row.item % 2 for row in found.rows} == {1}
    assert found.left_out["of other catalogues"] == 8
    with pytest.raises(UserError, match=r"the task alignment: it needs labelled pairs"):
        asked(shards, given, name="alignment", catalogues=("grocer",))


def test_sides_of_a_pair_show_what_they_are_told_to(shards, given):
    found = asked(shards, given, name="alignment")
    assert found.labels.tolist() == [1, 0]
    assert found.products == ["product0", "product0"]
    first, second, third, _ = records(shards, found)
    assert first["title"]
    assert first["told"]
    assert not first["picture"]
    assert second["picture"] == shards.views["v"]
    assert not second["title"]
    assert not second["told"]
    assert third["id"] == shards.source("train")[1]["id"]


@pytest.mark.parametrize(
    ("sides", "asked_of"),
    [
        ((("title",), ("title", "image")), []),
        ((("image",), ("image",)), ["v"]),
        ((("title",), ("image",)), ["v", ""]),
    ],
)
def test_an_item_is_not_paired_with_its_own_text_or_picture(shards, sides, asked_of):
    """By the same text, or picture, anyone can tell."""
    item = shards.source("train")[0]["id"]
    own = shards_of(
        shards.source("train"),
        (),
        [Pair("train", item, item, 1, "", "", x) for x in asked_of or "v"],
        shards.views,
    )
    task = Task(name="alignment", first_shown=sides[0], second_shown=sides[1])
    table = made.inputs(own).table
    if not asked_of:
        with pytest.raises(UserError, match="the same twice"):
            examples.task_dataset(task, own, "train", table)
        return
    assert [
        row.view for row in examples.task_dataset(task, own, "train", table).rows[1::2]
    ] == asked_of


def test_corruption_reaches_a_further_picture(shards, given):
    found = asked(shards, given, name="alignment")
    assert records(shards, found, Corruption("IMR", 1.0))[1]["picture"] == b""
    noisy = records(shards, found, Corruption("INR", 1.0))[1]["picture"]
    own = [item["picture"] for item in shards.source("train")]
    assert noisy in own


def test_two_pictures_of_one_item_are_not_told_by_the_noise_that_both_have(shards, given):
    """An item of a pair with itself, each side another product's picture: the two are unlike."""
    items = shards.source("train")
    views = {f"v{i}": made.jpeg(50 + i) for i in range(len(items))}
    pairs = [Pair("train", x["id"], x["id"], 1, "", "", f"v{i}") for i, x in enumerate(items)]
    own = shards_of(items, (), pairs, views)
    sides = {"first_shown": ("image",), "second_shown": ("image",)}
    found = examples.task_dataset(Task(name="alignment", **sides), own, "train", given.table)
    noisy = records(own, found, Corruption("INR", 1.0))
    same = [a["picture"] == b["picture"] for a, b in zip(noisy[::2], noisy[1::2], strict=True)]
    assert len(same) == 16
    assert sum(same) <= 4  # by chance one of 15
    half = TaskSplit("train", (own,), (found,)).corrupted(Corruption("INR", 0.5))
    clean = [own.source("train")[row.item]["picture"] for row in found.rows]
    clean[1::2] = [views[row.view] for row in found.rows[1::2]]
    for record, corrupt, picture, whole in zip(
        records(own, found, Corruption("INR", 0.5), seed=EVALUATION_SEED),
        half,
        clean,
        records(own, found, Corruption("INR", 1.0), seed=EVALUATION_SEED),
        strict=True,
    ):
        assert record["picture"] == (whole["picture"] if corrupt else picture)


def test_noise_is_of_the_catalogues_that_are_asked(shards, given):
    by_picture = {x["picture"]: x["source"] for x in shards.source("train")}
    for catalogue in ("shop", "grocer"):
        task = {"classes": ("cups", "pots"), "catalogues": (catalogue,)}
        found = asked(shards, given, name="classification", **task)
        noisy = records(shards, found, Corruption("INR", 1.0))
        assert {by_picture[record["picture"]] for record in noisy} == {catalogue}
        assert found.catalogues == [catalogue] * 8


def test_the_products_of_a_split_are_those_of_all_its_items(shards, given):
    """Of training's items few are in pairs, and yet it has learned from all of them."""
    found = TaskSplit.of(Task(name="alignment"), (shards,), "train", given.table)
    assert set(found.products) == {"product0"}
    assert found.split_products == {item["product"] for item in shards.source("train")}
    assert len(found.split_products) > 1


def test_a_split_without_pairs_is_told(shards, given):
    with pytest.raises(UserError, match="nothing of the split 'valid'"):
        asked(shards, given, "valid", name="alignment")


def test_items_of_no_catalogue_are_told_from_those_of_others(shards, given):
    unnamed = [{**record, "source": ""} for record in shards.source("train")]
    pairs, shards = shards.pairs, dataclasses.replace(shards, splits={"train": unnamed})
    shards.pairs = pairs
    for name in ("classification", "alignment", "questions"):
        with pytest.raises(UserError, match=r"\(left out: \d+ of no catalogue \(source\)\)"):
            asked(shards, given, name=name, catalogues=("grocer",))


def test_spoilt_items_are_asked_the_same(shards, given):
    """What is true of an item is its own, whatever it shows."""
    found = asked(shards, given, name="questions")
    clean, corrupt = (records(shards, found, c) for c in (CLEAN, Corruption("KNR", 1.0)))
    for row, a, b in zip(found.rows, clean, corrupt, strict=True):
        assert a["values"] == b["values"]
        assert row.asked not in {normalised(p) for p, _ in (*a["told"], *b["told"])}
    assert any(a["told"] != b["told"] for a, b in zip(clean, corrupt, strict=True))


def test_rows_pickle(shards, given):
    found = asked(shards, given, name="questions")
    source = TaskSource(shards, "train", found, CLEAN, 0)
    assert pickle.loads(pickle.dumps(source))[1]["told"] == source[1]["told"]
