"""The tasks' trivial baselines against their definitions."""

import dataclasses
import math
import types

import numpy as np
import pytest

from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.settings import Corruption, Task
from k3m_jax.tasks.alignment import Alignment
from k3m_jax.tasks.base import TaskSplit
from k3m_jax.tasks.classification import Classification
from k3m_jax.tasks.trivial_baselines import SIDE, NaiveBayes, SeenSplit
from k3m_jax.training.task_network import Head
from tests import products as made
from tests.test_candidates import row_of, scorer_of, split_of
from tests.test_tasks import shards_of


def seen(titles, pixels, labels=(), split=None):
    """Examples that all have a label; a pixel of None is no picture."""
    split = split or types.SimpleNamespace(labels=np.array(labels), labelled=np.arange(len(labels)))
    pixels = [np.full(SIDE**2 * 3, p, np.float32) for p in np.array(pixels, np.float32)]
    return SeenSplit(split, [tuple(t.split()) for t in titles], np.stack(pixels))


TITLES = ["red cup", "cup", "blue pot pot", "red"]
LABELS = np.array([0, 0, 1, 1])


def test_naive_bayes_is_bayes_rule():
    bayes = NaiveBayes([tuple(t.split()) for t in TITLES], LABELS, 2)
    words = {w for t in TITLES for w in t.split()}
    for label, found in enumerate(bayes(("pot", "red", "unknown"))):
        words_of = " ".join(t for t, y in zip(TITLES, LABELS, strict=True) if y == label).split()
        prior = (2 + 1) / (4 + 2)
        likely = [(words_of.count(w) + 1) / (len(words_of) + len(words)) for w in ("pot", "red")]
        assert found == pytest.approx(math.log(prior * math.prod(likely)))


def test_classification():
    train = seen(TITLES, [0.0, None, 0.5, 1.0], [0, 0, 1, 0])
    measured = seen(["pot", "", ""], [0.9, 0.6, None])
    scorer = Classification(Head(Task(classes=("a", "b")), width=4))
    majority, title, picture = scorer.trivial_baselines(train, measured)
    assert majority.argmax(1).tolist() == [0, 0, 0]
    assert title.argmax(1).tolist() == [1, 0, 0]  # no word: the majority
    assert picture.argmax(1).tolist() == [0, 1, 0]  # no picture: the majority


def test_items_of_no_named_class_are_not_learned_from():
    task = Task(name="classification", classes=("cup", "pot"))
    names = ("pan", "pan", "cup", "pan", "pot", "pot")
    items = [
        dataclasses.replace(made.record(i, [], title=f"red {n}"), category=n)
        for i, n in enumerate(names)
    ]

    def baselines(train):
        shards, vocabulary = shards_of(train, items), ValueVocabulary.merge([])
        train, valid = (
            TaskSplit(Classification, task, [shards], name, vocabulary)
            for name in ("train", "valid")
        )
        assert len(train.labelled) == 3
        scorer = Classification(Head(task, width=4))
        read = (SeenSplit.read(each, Corruption()) for each in (train, valid))
        return scorer.trivial_baselines(*read)

    found, wanted = baselines(items), baselines([r for r in items if r.category != "pan"])
    for scores, expected in zip(found, wanted, strict=True):
        assert np.array_equal(scores, expected)


def test_alignment():
    train = seen(["red cup", "red", "pot", "cup"], [0.0] * 4, [1, 0])
    measured = seen(["red a", "red b", "a", "b", "", ""], [0, 0.1, 0, 1, 0, None])
    scorer = Alignment(Head(Task(name="alignment"), width=4))
    majority, title, (near, far, none) = scorer.trivial_baselines(train, measured)
    assert majority.tolist() == [0, 0, 0]
    assert near > far >= none
    assert title[0] > title[1]  # both have "red", as the pair of train that is one


def test_questions():
    vocabulary = ValueVocabulary.merge(
        [{"colour": {"red": 2, "blue": 1, "green": 1}, "of": {"oak": 1, "tin": 1}}]
    )
    red, blue, green = (vocabulary.id("colour", c) for c in ("red", "blue", "green"))
    facts = [frozenset({i}) for i in (red, red, blue, blue, green)]
    row = row_of(vocabulary, 0, "colour", "blue")
    rows = [row._replace(item=n, facts=x) for n, x in zip((0, 1, 2, 2, 3), facts, strict=True)]
    titles = ["a rose", "a rose", "a sky", "a sky", "a leaf"]
    train = seen(titles, [0.0, 0.1, 0.5, 0.5, 1.0], split=split_of(rows))
    split = split_of([row, row])
    scorer = scorer_of(vocabulary, split, length=8)
    found = scorer.trivial_baselines(train, seen(["sky", ""], [0.9, None], split=split))
    blocks, best = scorer.candidates[split].blocks, []
    for scores in found:
        for block, of_query in zip(blocks, scorer.candidates[split].split(scores), strict=True):
            best.append(block.ids[of_query.argmax()])
            own = block.ids >= 0  # values that the property never has come last
            assert of_query[own].min() > of_query[~own].max()
    assert best == [red, red, blue, red, green, red]


def test_features_of_titles_and_pictures():
    items = [
        made.record(0, [], title="A  Cup"),
        made.record(1, [], title="", picture=made.NO_PICTURE),
    ]
    split = types.SimpleNamespace(sources=lambda corruption: [map(ItemView.of, items)])
    found = SeenSplit.read(split, Corruption())
    assert found.words == [("a", "cup"), ()]
    assert 0 < found.pixels[0].mean() < 1
    assert np.isnan(found.pixels[1]).all()
