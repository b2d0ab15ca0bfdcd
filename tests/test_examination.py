"""What is chosen by which examples, and what an interval counts."""

import dataclasses
import types

import numpy as np
import pytest

from k3m_jax.metrics.bootstrap import Resampling
from k3m_jax.runs.task_evaluation import CLEAN, Splits, TaskEvaluation
from k3m_jax.settings import Settings, Task, UserError
from tests import products as made
from tests.test_tasks import shards_of


class Recorder:
    """A judge whose scores are the examples' own, and who keeps the thresholds it is given."""

    needs_threshold = True

    def __init__(self):
        self.thresholds = []

    def scores(self, params, asked, c):
        return asked.given

    def floors(self, train, known, asked, seen):
        return {"floor": asked.given - 1.0}

    def statistics(self, asked, scores, threshold):
        self.thresholds.append(threshold)
        right = (scores > threshold) == (asked.labels == 1)
        return {"right": lambda weights: (weights * right).sum(1) / weights.sum(1)}


def asked(scores, labels, products, split="test"):
    """Examples of a split, as far as an examination looks at them."""
    return types.SimpleNamespace(
        given=np.asarray(scores, np.float64),
        labels=np.asarray(labels),
        products=products,
        split=split,
        split_products=frozenset(),
        left_out={},
        sources=lambda corruption: [],
        surface=lambda corruption: None,
    )


def examine(judge, valid, test, notes=None):
    train = asked([0.0], [0], ["t"])
    return TaskEvaluation(
        kind="probe",
        settings=Settings(task=Task(name="alignment")),
        checkpoint=1,
        embedder=lambda sources: np.zeros((1, 2)),
        judge=judge,
        params=None,
        splits=Splits(train, valid, test, None),
        scale=lambda c: c,
        notes=notes or {},
    ).report(CLEAN)


def test_thresholds_are_those_of_the_validation_examples():
    """Of the model as of the floors; the best of the test split lies elsewhere."""
    judge = Recorder()
    valid = asked([0.7, 0.8, 1.0, 1.1], [0, 0, 1, 1], list("abcd"))
    test = asked([0.0, 0.1, 0.5, 0.6], [0, 0, 1, 1], list("efgh"))
    report = examine(judge, valid, test)
    model, floor = judge.thresholds
    assert 0.8 <= model <= 1.0
    assert floor == pytest.approx(model - 1.0)
    assert report.rows[0].model.value == 0.5  # none of the test split is above it


def test_a_threshold_that_was_chosen_on_what_is_measured_is_told():
    valid = asked([0.0, 1.0], [0, 1], list("ab"), split="valid")
    again = asked([0.0, 1.0], [0, 1], list("ab"))
    notes = {"training examples": 7}
    assert examine(Recorder(), valid, again, notes).notes == notes
    told = examine(Recorder(), valid, valid, notes)
    assert told.notes == {
        **notes,
        "threshold": "chosen on these very pairs, so that F1 is flattered",
    }
    assert "threshold: chosen on these very pairs" in told.text()


def test_pictures_elsewhere_are_like_the_runs():
    own, elsewhere = (shards_of(made.products(8), made.products(8, first=8)) for _ in range(2))
    given = made.inputs(own)
    settings = made.settings_for(given)
    task = Task(name="classification", classes=("things",))
    assert len(Splits.of(task, settings, given, [elsewhere], "valid").asked.products) == 8
    elsewhere.info = dataclasses.replace(elsewhere.info, regions=16)
    with pytest.raises(UserError, match=r"image\.regions is 4, but memory was built with 16"):
        Splits.of(task, settings, given, [elsewhere], "valid")


@pytest.mark.parametrize("where", ["valid", "test"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_no_answers(where, wrong):
    given = {"valid": [0.0, 1.0], "test": [0.0, 1.0]}
    given[where][1] = wrong
    splits = [asked(given[name], [0, 1], list("ab"), split=name) for name in given]
    with pytest.raises(UserError, match=f"split '{where}': 1 of 2 scores of the model at step 1"):
        examine(Recorder(), *splits)


def test_an_interval_counts_products_not_examples():
    """A product's examples stand or fall together: copies of them tell nothing new."""
    valid = asked([0.0, 1.0], [0, 1], ["v", "w"])
    scores, labels, names = [1.0, 0.0, 1.0, 1.0, 0.0], [1] * 5, list("abcde")
    (once,) = examine(Recorder(), valid, asked(scores, labels, names)).rows
    (often,) = examine(Recorder(), valid, asked(scores * 40, labels * 40, names * 40)).rows
    assert often.model == once.model
    low, high = once.model.interval
    assert low < 0.6 < high
    apart = Resampling([f"{name}{i}" for i in range(40) for name in names])
    right = np.array(scores * 40) > 0.5
    low_apart, high_apart = apart.interval(lambda w: (w * right).sum(1) / w.sum(1))
    assert high_apart - low_apart < (high - low) / 3
