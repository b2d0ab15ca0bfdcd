"""Which examples thresholds are chosen on, and what an interval counts."""

import types

import numpy as np
import pytest

from k3m_jax.metrics import Bootstrap
from k3m_jax.runs.task_evaluation import CLEAN, TaskEvaluation
from k3m_jax.settings import Task, UserError


class Recorder:
    """A scorer whose scores are the examples' own, and which keeps the thresholds that it gets."""

    needs_threshold = True
    head = types.SimpleNamespace(task=Task(name="alignment"))

    def __init__(self):
        self.thresholds = []

    def scores(self, params, split, c):
        return split.given

    def trivial_baselines(self, train, measured):
        return [measured.split.given - 1.0] * 3

    def statistics(self, split, scores, threshold):
        self.thresholds.append(threshold)
        right = (scores > threshold) == (split.labels == 1)
        return {"right": lambda weights: (weights * right).sum(1) / weights.sum(1)}


def examples(scores, labels, products, split="test"):
    """Examples of a split, as far as an evaluation reads them."""
    return types.SimpleNamespace(
        given=np.asarray(scores, np.float64),
        labels=np.asarray(labels),
        products=products,
        split=split,
        split_products=frozenset(),
        left_out={},
        sources=lambda corruption: [],
    )


def evaluate(scorer, valid, test):
    evaluation = TaskEvaluation.__new__(TaskEvaluation)
    vars(evaluation).update(
        kind="probe",
        checkpoint=1,
        embedder=lambda sources: np.zeros((1, 2)),
        embedded={},
        scorer=scorer,
        head=None,
        scale=np.asarray,
        norm="",
        train=examples([0.0], [0], ["t"]),
        valid=valid,
        measured=test,
        train_corruption=CLEAN,
        trivial_baselines=True,
        classical=False,
        notes={},
    )
    return evaluation.report(CLEAN)


def test_thresholds_are_those_of_the_validation_examples():
    """Of the model as of the baselines; the best of the test split lies elsewhere."""
    scorer = Recorder()
    valid = examples([0.7, 0.8, 1.0, 1.1], [0, 0, 1, 1], list("abcd"))
    test = examples([0.0, 0.1, 0.5, 0.6], [0, 0, 1, 1], list("efgh"))
    report = evaluate(scorer, valid, test)
    model, majority, *_ = scorer.thresholds
    assert 0.8 <= model <= 1.0
    assert majority == pytest.approx(model - 1.0)
    assert report.rows[0].model.value == 0.5  # none of the test split is above it


def test_a_threshold_chosen_on_what_is_measured_is_noted():
    valid = examples([0.0, 1.0], [0, 1], list("ab"), split="valid")
    again = examples([0.0, 1.0], [0, 1], list("ab"))
    assert "threshold" not in evaluate(Recorder(), valid, again).notes
    assert "threshold" in evaluate(Recorder(), valid, valid).notes


@pytest.mark.parametrize("where", ["valid", "test"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_no_answers(where, wrong):
    given = {"valid": [0.0, 1.0], "test": [0.0, 1.0]}
    given[where][1] = wrong
    splits = [examples(given[name], [0, 1], list("ab"), split=name) for name in given]
    with pytest.raises(UserError, match=f"split '{where}': 1 of 2 scores of the model at step 1"):
        evaluate(Recorder(), *splits)


def test_an_interval_counts_products_not_examples():
    """A product's examples are right or wrong together: copies add nothing."""
    valid = examples([0.0, 1.0], [0, 1], ["v", "w"])
    scores, labels, names = [1.0, 0.0, 1.0, 1.0, 0.0], [1] * 5, list("abcde")
    (once,) = evaluate(Recorder(), valid, examples(scores, labels, names)).rows
    (often,) = evaluate(Recorder(), valid, examples(scores * 40, labels * 40, names * 40)).rows
    assert often.model == once.model
    low, high = once.model.interval
    assert low < 0.6 < high
    apart = Bootstrap([f"{name}{i}" for i in range(40) for name in names])
    right = np.array(scores * 40) > 0.5
    low_apart, high_apart = apart.interval(lambda w: (w * right).sum(1) / w.sum(1))
    assert high_apart - low_apart < (high - low) / 3
