"""The tasks' floors against what they are, written out."""

import math

import numpy as np
import pytest

from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.questions import CandidateIndex, CandidateSet
from k3m_jax.model.task_heads import Head
from k3m_jax.runs.task_scorers import make_scorer
from k3m_jax.settings import Corruption, Task
from k3m_jax.tasks import trivial_baselines
from k3m_jax.tasks.examples import TaskDataset, TaskRow
from k3m_jax.tasks.split import TaskSplit
from k3m_jax.tasks.trivial_baselines import (
    MAJORITY,
    PICTURE,
    TITLE,
    NaiveBayes,
    RawFeatures,
    raw_features,
)
from tests import products as made
from tests.test_tasks import shards_of


def seen(titles, pixels):
    """A surface; a pixel of None is no picture."""
    full = [
        np.full(trivial_baselines.SIDE**2 * 3, 0.0 if p is None else p, np.float32) for p in pixels
    ]
    return RawFeatures(
        [tuple(t.split()) for t in titles],
        np.stack(full),
        np.array([p is not None for p in pixels]),
    )


TITLES = ["red cup", "cup", "blue pot pot", "red"]
LABELS = np.array([0, 0, 1, 1])


def test_naive_bayes_is_bayes_rule():
    bayes = NaiveBayes([tuple(t.split()) for t in TITLES], LABELS, 2)
    words = {w for t in TITLES for w in t.split()}
    for label, found in enumerate(bayes(("pot", "red", "unknown"))):
        told = " ".join(t for t, y in zip(TITLES, LABELS, strict=True) if y == label).split()
        prior = (2 + 1) / (4 + 2)
        likely = [(told.count(w) + 1) / (len(told) + len(words)) for w in ("pot", "red")]
        assert found == pytest.approx(math.log(prior * math.prod(likely)))


def test_classification():
    train = seen(TITLES, [0.0, None, 0.5, 1.0])
    labels = np.array([0, 0, 1, 0])
    found = trivial_baselines.classification(
        train, labels, seen(["pot", "", ""], [0.9, 0.6, None]), 2
    )
    assert found[MAJORITY].argmax(1).tolist() == [0, 0, 0]
    assert found[TITLE].argmax(1).tolist() == [1, 0, 0]  # no word: the majority
    assert found[PICTURE].argmax(1).tolist() == [0, 1, 0]  # no picture: the majority


def test_items_of_no_named_class_are_not_learned_from():
    task = Task(name="classification", classes=("cup", "pot"))
    names = ("pan", "pan", "cup", "pan", "pot", "pot")
    items = [made.record(i, [], title=f"red {n}", category=n) for i, n in enumerate(names)]

    def floors(train):
        shards = shards_of(train, items)
        table = ValueVocabulary.merge([])
        splits = [TaskSplit.of(task, [shards], name, table) for name in ("train", "valid")]
        assert len(splits[0].labelled) == 3
        surfaces = [each.surface(Corruption()) for each in splits]
        judge = make_scorer(Head(task, width=4), None)
        return judge.floors(splits[0], surfaces[0], splits[1], surfaces[1])

    found, wanted = floors(items), floors([r for r in items if r["category"] != "pan"])
    assert found.keys() == {MAJORITY, TITLE, PICTURE}
    for name, scores in found.items():
        assert np.array_equal(scores, wanted[name]), name


def test_alignment():
    train = seen(["red cup", "red", "pot", "cup"], [0.0] * 4)
    found = trivial_baselines.alignment(
        train,
        np.array([1, 0]),
        seen(["red a", "red b", "a", "b", "", ""], [0, 0.1, 0, 1, 0, None]),
    )
    assert found[MAJORITY].tolist() == [0, 0, 0]
    near, far, none = found[PICTURE]
    assert near > far >= none
    assert found[TITLE][0] > found[TITLE][1]  # both have "red", as the pair of train that is one


def test_questions():
    table = ValueVocabulary.merge(
        [{"colour": {"red": 2, "blue": 1, "green": 1}, "of": {"oak": 1, "tin": 1}}]
    )
    red, blue, green = (table.id("colour", c) for c in ("red", "blue", "green"))
    train = seen(["a rose", "a rose", "a sky", "a leaf"], [0.0, 0.1, 0.5, 1.0])
    facts = [frozenset({i}) for i in (red, red, blue, green)]
    rows = [TaskRow(i, (), frozenset(), asked="colour", label=blue) for i in range(2)]
    examples = TaskDataset(rows, ["a", "b"], ["p", "q"], ["shop"] * 2, [(blue,)] * 2, {})
    texts = CandidateSet(table, examples.known)
    places = CandidateIndex.of([examples], texts)
    asked = seen(["sky", ""], [0.9, None])
    found = trivial_baselines.questions(train, facts, asked, places, texts, table)

    def best(floor, q):
        block = slice(places.offsets[q], places.offsets[q + 1])
        return texts.ids[places.rows[block][found[floor][block].argmax()]]

    assert [best(MAJORITY, q) for q in range(2)] == [red, red]
    assert [best(TITLE, q) for q in range(2)] == [blue, red]
    assert [best(PICTURE, q) for q in range(2)] == [green, red]
    for scores in found.values():  # values that the property never has come last
        own = places.own[: places.offsets[1]]
        assert scores[: places.offsets[1]][own].min() > scores[: places.offsets[1]][~own].max()


def test_surface_reads_titles_and_pictures():
    items = [made.record(0, [], title="A  Cup"), made.record(1, [], title="", picture=b"")]
    found = raw_features([items])
    assert found.words == [("a", "cup"), ()]
    assert found.pictured.tolist() == [True, False]
    assert 0 < found.pixels[0].mean() < 1
