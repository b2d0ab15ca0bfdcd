"""What tasks hide and leave out: words, properties, rare classes, labels, kinds of pairs."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import f1_score

from configs import tasks_shop
from k3m_jax import metrics, tasks
from k3m_jax.data.store.pairs import Pair
from k3m_jax.evaluation.embedding import RememberingEmbedder
from k3m_jax.settings import Corruption, Task, UserError
from k3m_jax.tasks import hiding
from k3m_jax.tasks.base import TaskSplit
from k3m_jax.tasks.classification import Classification
from tests import products as made
from tests.test_tasks import shards_of

CLEAN = Corruption()


@pytest.mark.parametrize(
    ("title", "left"),
    [
        ("Nike Men's T-Shirts Blue", "Nike Men's Blue"),
        ("tshirt", ""),
        ("Red DRESS, Boots", "Red"),
        ("Round-Neck boot-cut", "Round-Neck cut"),
        ("Women’s Bootie", "Women’s Bootie"),
        ("(boots) a & b", "a & b"),
        ("", ""),
    ],
)
def test_words_are_hidden_in_any_spelling(title, left):
    words = hiding.spellings(["tshirt", "dress", "boot"])
    assert hiding.without(title, words) == left


def test_words_come_from_files(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("boot\nclog\n")
    assert hiding.words_of((f"@{file}", "clog", "shoe")) == ("boot", "clog", "shoe")
    with pytest.raises(UserError, match="hidden_words"):
        hiding.words_of(("@nowhere.txt",))


@pytest.fixture(scope="module")
def shards():
    """40 training items: 20 pots, 12 cups, 8 jugs, and those that are measured."""
    kinds = ["pots"] * 20 + ["cups"] * 12 + ["jugs"] * 8 + ["pots", "cups", "jugs", "vase"] * 3
    items = [
        dataclasses.replace(made.having(item, title=f"{item.title} {kind}"), category=kind)
        for item, kind in zip(made.products(52), kinds, strict=True)
    ]
    ids = [item.id for item in items]
    pairs = [Pair("train", ids[i], ids[i + 1], i % 2, "ab"[i // 5], "", "") for i in range(10)]
    return shards_of(items[:40], items[40:], pairs)


def split_of(shards, split="train", kind=Classification, few=0, **task):
    task = kind.resolve(Task(name=kind.name, **task), [shards], "train")
    vocabulary = made.inputs(shards).vocabulary
    return TaskSplit(kind, task, [shards], split, vocabulary, labels_per_class=few)


@pytest.mark.parametrize("corruption", [CLEAN, Corruption("TNR", 1.0)])
def test_items_show_no_hidden_word_and_only_shown_properties(shards, corruption):
    how = {"hide_classes": True, "hidden_words": ("thing",), "shown_properties": ("Colour",)}
    (source,) = split_of(shards, **how).sources(corruption)
    for view in source:
        assert not {"pots", "cups", "jugs", "thing"} & set(view.visible["title"].split())
        assert {name for name, _ in view.visible["knowledge"]} <= {"colour"}
        assert view.visible["title"]


def test_rare_classes_are_left_out(shards):
    found = split_of(shards, "valid", min_items=12)
    assert len(found.examples) == 6
    assert list(found.left_out.values()) == [6]
    assert not (found.labels < 0).any()
    everything = split_of(shards, "valid")
    assert (everything.labels < 0).sum() == 3  # vases, always wrong
    with pytest.raises(UserError, match="min_items"):
        split_of(shards, min_items=21)


def test_few_labels_are_the_same_of_each_class_and_nest(shards):
    ids = {}
    for few in (3, 10, 0):
        found = split_of(shards, few=few)
        ids[few] = {example[0].id for example in found.examples}
        counts = np.bincount(found.labels)
        assert counts.tolist() == [min(few or 99, n) for n in (20, 12, 8)]
    assert ids[3] < ids[10] < ids[0]


def test_pairs_of_a_kind(shards):
    found = split_of(shards, kind=tasks.find("alignment"), pair_kinds=("b",), few=1)
    assert len(found.examples) == 5  # labels of pairs are no classes
    assert found.left_out["of another kind"] == 5


def test_macro_f1_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, 60), rng.integers(1, 7, 60)
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    found = metrics.macro_f1(predicted, labels, weights)
    for row, value in zip(weights, found, strict=True):
        times = row.astype(int)
        repeated = np.repeat(labels, times), np.repeat(predicted, times)
        assert value == pytest.approx(f1_score(*repeated, average="macro", zero_division=0))
    # A class that can't be predicted costs the precision of what is predicted instead.
    assert metrics.macro_f1(np.array([0, 0]), np.array([0, -1]), np.ones((1, 2))) == [2 / 3]


def test_equal_views_are_embedded_once(shards, monkeypatch):
    asked = []

    def embed(self, sources):
        asked.append(sum(map(len, sources)))
        return np.array([[float(row.item)] for source in sources for row in source._rows])

    monkeypatch.setattr(RememberingEmbedder.__mro__[1], "__call__", embed)
    embedder = RememberingEmbedder.__new__(RememberingEmbedder)
    embedder._known = {}
    for few, corruption, wanted in [
        (0, CLEAN, 40),
        (3, CLEAN, None),
        (3, Corruption("TMR", 1.0), 9),
        (0, Corruption("TMR", 1.0), 31),
    ]:
        found, before = split_of(shards, few=few), len(asked)
        vectors = embedder(found.sources(corruption))
        assert vectors[:, 0].tolist() == [example[0].item for example in found.examples]
        assert asked[before:] == ([wanted] if wanted else [])
    embedder(split_of(shards, hidden_words=("thing",)).sources(CLEAN))
    assert asked[-1] == 40


def test_tasks_are_chosen_by_name(tmp_path):
    file = tasks_shop.get_config(str(tmp_path / "words")).to_dict()
    found = tasks.choose((), Task(), file)
    assert {"classes", "classes_5", "colour", "alignment_hard"} <= set(found)
    assert all(task.name in tasks.REGISTRY for task in found.values())
    assert list(tasks.choose(("colour",), Task(), file)) == ["colour"]
    (task,) = tasks.choose(("questions",), Task(questions=1), None).values()
    assert (task.name, task.questions) == ("questions", 1)
    for names, given in (((), None), (("colour",), None), (("questions",), file)):
        with pytest.raises(UserError, match="--task"):
            tasks.choose(names, Task(), given)
    with pytest.raises(UserError, match=r"--tasks\.x\.lable"):
        tasks.choose((), Task(), {"x": {"lable": "colour"}})
