"""The examples of the tasks, and that no part of the answer is left in what these show."""

import dataclasses
import pickle

import numpy as np
import pytest

from k3m_jax import tasks
from k3m_jax.data.corruption import EVALUATION_SEED
from k3m_jax.data.input.pipeline import inference_batches
from k3m_jax.data.store.pairs import Pair
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Corruption, Task, UserError
from k3m_jax.tasks.alignment import Alignment
from k3m_jax.tasks.base import TaskSplit
from k3m_jax.tasks.classification import Classification
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
    items = [
        dataclasses.replace(
            item, category=("cups", "pots")[i % 3 == 0], source=("shop", "grocer")[i % 2]
        )
        for i, item in enumerate(made.products(24))
    ]
    ids = [item.id for item in items]
    pairs = [Pair("train", ids[0], ids[1], 1, "", "", "v"), Pair("train", *ids[1:3], 0, "", "", "")]
    return shards_of(items[:16], items[16:], pairs, {"v": made.jpeg(99)})


@pytest.fixture(scope="module")
def given(shards):
    return made.inputs(shards)


def examples(shards, given, split="train", **task):
    kind = tasks.find(task["name"])
    return TaskSplit(kind, Task(**task), [shards], split, given.vocabulary)


def rows_of(found):
    return [row for example in found.examples for row in example]


def class_names(shards, **task):
    return Classification.resolve(Task(**task), [shards], "train").classes


def views(found, corruption=CLEAN, seed=0):
    (source,) = found.sources(corruption, seed)
    return list(source)


def picture(view):
    return view.visible["image"].jpeg


def batch_of(given, found, corruption=CLEAN, **settings):
    (source,) = found.sources(corruption, 0)
    settings = made.settings_for(given, **settings)
    parts = list(inference_batches(settings, [source], given.tokenizer))
    return {k: np.concatenate([p[k] for p in parts])[: len(source)] for k in parts[0]}


def test_questions_are_of_all_properties_and_know_all_true_values(shards, given):
    found = examples(shards, given, name="questions", questions=0)
    per_item = [len({name for name, _ in item.triples}) for item in shards.source("train")]
    trivial = found.left_out.get("with nothing but true values", 0)
    assert len(rows_of(found)) == sum(per_item) - trivial
    for row in rows_of(found):
        item = shards.source("train")[row.item]
        true = {v for p, v in item.triples if p == row.query_property}
        wanted = {(row.query_property, value) for value in true}
        assert {given.vocabulary.pairs[i] for i in row.known} == wanted
        assert row.label in row.known


def test_a_limit_leaves_out_questions_and_changes_none(shards, given):
    every = examples(shards, given, name="questions", questions=0)
    some = examples(shards, given, name="questions", questions=2)
    assert set(rows_of(some)) < set(rows_of(every))
    counts = np.bincount([row.item for row in rows_of(some)])
    assert counts.max() == 2


@pytest.mark.parametrize("setting", ["TMR", "TNR", "INR", "KNR", "MNR"])
def test_the_queried_property_stands_nowhere_in_what_the_model_reads(shards, given, setting):
    found = examples(shards, given, name="questions", questions=0)
    batch = batch_of(given, found, Corruption(setting, 1.0))
    texts = [given.tokenizer.decode(row) for row in batch["knowledge_tokens"]]
    assert any(texts)
    for row, text in zip(rows_of(found), texts, strict=True):
        values = {v for p, v in given.vocabulary.pairs if p == row.query_property}
        assert not set(text.split()) & {row.query_property, *values}


def test_nor_in_the_text_of_a_baseline_that_reads_triples(shards, given):
    found = examples(shards, given, name="questions", questions=0, shown=("image", "knowledge"))
    keys = {"preset": "bert", "knowledge_text": True, "positions": 32}
    model = dataclasses.replace(TINY.model, **keys)
    batch = batch_of(given, found, model=model)
    texts = [given.tokenizer.decode(row) for row in batch["title_tokens"]]
    assert any(texts)
    for row, text in zip(rows_of(found), texts, strict=True):
        values = {v for p, v in given.vocabulary.pairs if p == row.query_property}
        assert not set(text.split()) & {row.query_property, *values}


def test_titles_stay_as_they_are(shards, given):
    found = examples(shards, given, name="questions")
    for row, view in zip(rows_of(found), views(found), strict=True):
        assert view.visible["title"] == shards.source("train")[row.item].title


def test_classes_are_the_training_items(shards, given):
    assert class_names(shards) == ("cups", "pots")
    found = examples(shards, given, name="classification", classes=("pots",))
    wanted = [0 if item.category == "pots" else -1 for item in shards.source("train")]
    assert found.labels.tolist() == wanted


def test_a_property_that_is_the_label_is_hidden(shards, given):
    names = class_names(shards, label="Colour")
    found = examples(shards, given, name="classification", label="Colour", classes=names)
    assert len(found.products) == 16
    for row, view in zip(rows_of(found), views(found), strict=True):
        colour = dict(shards.source("train")[row.item].triples)["colour"]
        assert names[row.label] == colour
        assert "colour" not in dict(view.visible["knowledge"])
        assert "brand" in dict(view.visible["knowledge"])


def test_several_values_are_no_class(shards, given):
    found = examples(shards, given, name="classification", label="fibre", classes=("wool",))
    names = [[name for name, _ in item.triples] for item in shards.source("train")]
    single = [i for i, properties in enumerate(names) if properties.count("fibre") == 1]
    assert [row.item for row in rows_of(found)] == single
    with pytest.raises(UserError, match="no training item has one value"):
        class_names(shards, label="size")
    with pytest.raises(UserError, match="no training item of the catalogues luma has one value"):
        class_names(shards, catalogues=("luma",))


def test_what_is_hidden_is_hidden(shards, given):
    task = {"name": "classification", "classes": ("cups", "pots")}
    found = examples(shards, given, **task, shown=("knowledge",), hidden_properties=("BRAND",))
    batch = batch_of(given, found)
    assert not batch["title_content"].any()
    assert not batch["region_mask"].any()
    texts = [given.tokenizer.decode(row) for row in batch["knowledge_tokens"]]
    assert all("colour" in text for text in texts)
    assert not any({"brand", *made.BRANDS} & set(text.split()) for text in texts)


def test_items_of_other_catalogs_take_no_part(shards, given):
    found = examples(shards, given, name="questions", catalogues=("grocer",))
    assert {row.item % 2 for row in rows_of(found)} == {1}
    assert found.left_out["of other catalogues"] == 8
    with pytest.raises(UserError, match=r"the task alignment: it needs labelled pairs"):
        examples(shards, given, name="alignment", catalogues=("grocer",))


def test_sides_of_a_pair_show_what_the_task_says(shards, given):
    found = examples(shards, given, name="alignment")
    assert found.labels.tolist() == [1, 0]
    assert found.products == ["product0", "product0"]
    first, second, third, _ = views(found)
    assert first.visible["title"]
    assert first.visible["knowledge"]
    assert not picture(first)
    assert picture(second) == shards.views["v"]
    assert not second.visible["title"]
    assert not second.visible["knowledge"]
    assert third.record.id == shards.source("train")[1].id


@pytest.mark.parametrize(
    ("sides", "shown"),
    [
        ((("title",), ("title", "image")), []),
        ((("image",), ("image",)), ["v"]),
        ((("title",), ("image",)), ["v", ""]),
    ],
)
def test_an_item_is_not_paired_with_its_own_text_or_picture(shards, sides, shown):
    """By the same text, or picture, anyone can tell."""
    item = shards.source("train")[0].id
    own = shards_of(
        shards.source("train"),
        (),
        [Pair("train", item, item, 1, "", "", x) for x in shown or "v"],
        shards.views,
    )
    task = Task(name="alignment", first_shown=sides[0], second_shown=sides[1])
    vocabulary = made.inputs(own).vocabulary
    if not shown:
        with pytest.raises(UserError, match="the same twice"):
            TaskSplit(Alignment, task, [own], "train", vocabulary)
        return
    found = TaskSplit(Alignment, task, [own], "train", vocabulary)
    assert [row.view for row in rows_of(found)[1::2]] == shown


def test_corruption_reaches_a_further_picture(shards, given):
    found = examples(shards, given, name="alignment")
    assert picture(views(found, Corruption("IMR", 1.0))[1]) == b""
    noisy = picture(views(found, Corruption("INR", 1.0))[1])
    assert noisy in [item.picture for item in shards.source("train")]


def test_two_pictures_of_one_item_do_not_share_their_noise(shards, given):
    """Or an item's pair with itself would be recognised by the noise that both sides have."""
    items = shards.source("train")
    pictures = {f"v{i}": made.jpeg(50 + i) for i in range(len(items))}
    pairs = [Pair("train", x.id, x.id, 1, "", "", f"v{i}") for i, x in enumerate(items)]
    own = shards_of(items, (), pairs, pictures)
    sides = {"first_shown": ("image",), "second_shown": ("image",)}
    task = Task(name="alignment", **sides)
    found = TaskSplit(Alignment, task, [own], "train", given.vocabulary)
    noisy = [picture(view) for view in views(found, Corruption("INR", 1.0))]
    same = [a == b for a, b in zip(noisy[::2], noisy[1::2], strict=True)]
    assert len(same) == 16
    assert sum(same) <= 4  # by chance one of 15
    half = found.corrupted(Corruption("INR", 0.5))
    assert 0 < half.sum() < len(half)
    clean = [picture(view) for view in views(found)]
    at_half, whole = (
        [picture(v) for v in views(found, Corruption("INR", x), seed=EVALUATION_SEED)]
        for x in (0.5, 1.0)
    )
    assert at_half == [b if x else a for a, b, x in zip(clean, whole, half, strict=True)]


def test_noise_is_of_the_catalogues_that_are_examples(shards, given):
    by_picture = {x.picture: x.source for x in shards.source("train")}
    for catalogue in ("shop", "grocer"):
        task = {"classes": ("cups", "pots"), "catalogues": (catalogue,)}
        found = examples(shards, given, name="classification", **task)
        noisy = views(found, Corruption("INR", 1.0))
        assert {by_picture[picture(view)] for view in noisy} == {catalogue}
        assert {row.catalog for row in rows_of(found)} == {catalogue}


def test_the_products_of_a_split_are_those_of_all_its_items(shards, given):
    """Few of training's items are in pairs, but training reads all of them."""
    task = Task(name="alignment")
    found = TaskSplit(Alignment, task, (shards,), "train", given.vocabulary)
    assert set(found.products) == {"product0"}
    assert found.split_products == {item.product for item in shards.source("train")}
    assert len(found.split_products) > 1


def test_a_split_without_pairs_is_refused(shards, given):
    with pytest.raises(UserError, match="nothing of the split 'valid'"):
        examples(shards, given, "valid", name="alignment")


def test_items_of_no_catalog_are_counted_apart(shards, given):
    unnamed = [dataclasses.replace(x, source="") for x in shards.source("train")]
    pairs, shards = shards.pairs, dataclasses.replace(shards, splits={"train": unnamed})
    shards.pairs = pairs
    for name in ("classification", "alignment", "questions"):
        with pytest.raises(UserError, match=r"\(left out: \d+ of no catalogue \(source\)\)"):
            examples(shards, given, name=name, catalogues=("grocer",))


def test_corrupted_items_have_the_same_questions(shards, given):
    """What is true of an item is its own, whatever it shows."""
    found = examples(shards, given, name="questions")
    clean, corrupt = (views(found, c) for c in (CLEAN, Corruption("KNR", 1.0)))
    for row, a, b in zip(rows_of(found), clean, corrupt, strict=True):
        assert a.record.triples == b.record.triples
        visible = (*a.visible["knowledge"], *b.visible["knowledge"])
        assert row.query_property not in {normalised(p) for p, _ in visible}
    assert any(
        a.visible["knowledge"] != b.visible["knowledge"]
        for a, b in zip(clean, corrupt, strict=True)
    )


def test_rows_pickle(shards, given):
    found = examples(shards, given, name="questions")
    (source,) = found.sources(CLEAN)
    assert (
        pickle.loads(pickle.dumps(source))[1].visible["knowledge"] == source[1].visible["knowledge"]
    )
