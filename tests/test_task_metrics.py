"""The tasks' metrics beside what they say, written out."""

import itertools

import numpy as np
import pytest

from k3m_jax.metrics import ranking, task_metrics
from k3m_jax.metrics.bootstrap import Resampling

ONES = np.ones((1, 40))


@pytest.fixture(params=range(3))
def pairs(request):
    """Scores with many ties, labels, and integer weights that leave some out."""
    rng = np.random.default_rng(request.param)
    scores = rng.integers(0, 6, 40) / 2
    labels = rng.random(40) < 0.4
    return scores, labels, rng.integers(0, 3, (2, 40)).astype(float)


def repeated(x, weights):
    return np.repeat(x, weights.astype(int))


def test_mean(pairs):
    scores, _, weights = pairs
    wanted = [repeated(scores, w).mean() for w in weights]
    assert task_metrics.mean(scores, weights) == pytest.approx(wanted)
    assert np.isnan(task_metrics.mean(scores, 0 * weights)).all()


def test_f1(pairs):
    scores, labels, weights = pairs
    predicted = scores > 1
    for row, w in enumerate(weights):
        p, y = repeated(predicted, w), repeated(labels, w)
        precision, recall = (p & y).sum() / p.sum(), (p & y).sum() / y.sum()
        wanted = 2 * precision * recall / (precision + recall)
        assert task_metrics.f1(predicted, labels, weights)[row] == pytest.approx(wanted)
    nothing = np.zeros(40, bool)
    assert task_metrics.f1(nothing, nothing, ONES) == [0]


def test_auc(pairs):
    scores, labels, weights = pairs
    for row, w in enumerate(weights):
        s, y = repeated(scores, w), repeated(labels, w)
        wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(s[y], s[~y])]
        assert task_metrics.auc(scores, labels, weights)[row] == pytest.approx(np.mean(wins))
    assert np.isnan(task_metrics.auc(scores, labels | True, ONES)[0])
    assert task_metrics.auc(0 * scores, labels, ONES)[0] == 0.5


def test_auc_within_groups_compares_nothing_across_them(pairs):
    scores, labels, weights = pairs
    groups = np.arange(len(scores)) % 3
    found = task_metrics.auc_within(groups, scores, labels, weights)
    for row, w in enumerate(weights):
        s, y, g = repeated(scores, w), repeated(labels, w), repeated(groups, w)
        wins = [
            (s[i] > s[j]) + (s[i] == s[j]) / 2
            for i, j in itertools.product(np.flatnonzero(y), np.flatnonzero(~y))
            if g[i] == g[j]
        ]
        assert found[row] == pytest.approx(np.mean(wins))
    # Scores that tell the group alone, where labels differ by group.
    groups, labels = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 1], bool)
    one = np.ones((1, 6))
    assert task_metrics.auc(-groups, labels, one)[0] == pytest.approx(6 / 9)
    assert task_metrics.auc_within(groups, -groups, labels, one)[0] == 0.5
    assert np.isnan(task_metrics.auc_within(groups, groups, groups == 0, one)[0])


def test_threshold_is_the_best_of_all(pairs):
    scores, labels, _ = pairs
    levels = [*np.unique(scores), np.inf]
    best = max(task_metrics.f1(scores >= t, labels, ONES)[0] for t in levels)
    found = task_metrics.best_threshold(scores, labels)
    assert task_metrics.f1(scores >= found, labels, ONES)[0] == best
    assert task_metrics.best_threshold(scores, labels & False) == np.inf
    assert task_metrics.best_threshold(np.array([0.0, 1.0]), np.array([False, True])) == 0.5


def test_set_hits_are_the_mean_over_all_orders_of_what_ties():
    scores = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    true = {0: [1, 4], 1: [0], 2: [1, 2, 3]}
    question = np.array([q for q, answers in true.items() for _ in answers])
    answers = np.array([a for answers in true.values() for a in answers])
    counted = np.ones((len(answers), len(scores)), int)
    counted[np.arange(len(answers)), answers] = 0
    places = ranking.ranks(scores[answers], np.tile(scores, (len(answers), 1)), counted)
    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    for k in (1, 2, 3, 5):
        found = task_metrics.set_hits_at(k, places, question, 3)
        for q, answers_of in true.items():
            shares = [len({*order[:k]} & {*answers_of}) for order in orders]
            assert found[q] == pytest.approx(np.mean(shares) / min(k, len(answers_of)))


def test_interval_is_over_products():
    rng = np.random.default_rng(0)
    of_product = rng.random(50)
    values = np.repeat(of_product, 20)  # twenty questions of a product say the same
    sampling = Resampling([str(i // 20) for i in range(1000)])
    low, high = sampling.interval(lambda w: task_metrics.mean(values, w))
    assert sampling.value(lambda w: task_metrics.mean(values, w)) == pytest.approx(values.mean())
    spread = 1.96 * of_product.std() / np.sqrt(50)
    assert [low, high] == pytest.approx(
        [values.mean() - spread, values.mean() + spread], abs=0.15 * spread
    )
    assert sampling.interval(lambda w: task_metrics.mean(values, w)) == (low, high)
    assert sampling.interval(lambda w: np.full(len(w), np.nan)) is None
