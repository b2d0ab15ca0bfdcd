"""The metrics against their definitions, written out."""

import itertools

import numpy as np
import pytest

from k3m_jax import metrics
from k3m_jax.metrics import Bootstrap, Ranks, hits_at, ranks, reciprocal_rank, wilson_interval

ONES = np.ones((1, 40))


def ranks_by_enumeration(true_score, others):
    """Every rank that the true answer takes over all orders of the candidates.

    A sort by falling score is stable, so each permutation breaks the ties in its own way.
    """
    key = lambda score: np.inf if np.isnan(score) else -score  # noqa: E731
    candidates = [(true_score, True)] + [(score, False) for score in others]
    return [
        [true for _, true in sorted(order, key=lambda c: key(c[0]))].index(True) + 1
        for order in itertools.permutations(candidates)
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("true_score", "others"),
    [
        (0.5, []),
        (0.5, [0.1, 0.9, 0.3]),
        (0.5, [0.5, 0.5, 0.9, 0.1]),
        (1.0, [1.0, 1.0, 1.0, 1.0, 1.0]),
        (0.1, [0.1, 0.9, 0.9, 0.1]),
        (0.2, [NAN, 0.3, NAN]),
        (NAN, [0.1, NAN, 0.2, NAN]),
        (NAN, []),
    ],
)
def test_ties_are_the_mean_over_every_order(true_score, others):
    expected = np.array(ranks_by_enumeration(true_score, others))
    found = ranks(np.array([true_score]), np.array(others))
    for k in (1, 2, 3, 10):
        np.testing.assert_allclose(hits_at(k, found), [np.mean(expected <= k)], rtol=1e-12)
    np.testing.assert_allclose(reciprocal_rank(found), [np.mean(1 / expected)], rtol=1e-12)


def test_all_scores_alike_is_guessing():
    alike = Ranks(np.array([0]), np.array([255]))
    assert hits_at(1, alike)[0] == pytest.approx(1 / 256)
    assert hits_at(10, alike)[0] == pytest.approx(10 / 256)


def test_many_ties_stay_exact_and_quick():
    found = Ranks(np.array([0, 99_999]), np.array([0, 0]))
    np.testing.assert_allclose(reciprocal_rank(found), [1.0, 1e-5], rtol=1e-9)
    assert reciprocal_rank(Ranks(np.zeros(0, int), np.zeros(0, int))).shape == (0,)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_interval_covers_the_truth(share):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        # Items of one to four targets that agree with one another half of the time.
        targets = rng.integers(1, 5, 300)
        alike, apart = rng.random(300) < share, rng.random((300, 4)) < share
        right = np.where(rng.random((300, 1)) < 0.5, alike[:, None], apart)
        right = (right * (np.arange(4) < targets[:, None])).sum(1)
        low, high = wilson_interval(right.astype(float), targets.astype(float))
        covered += low <= share <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)  # three standard deviations


def test_interval_counts_items_not_targets():
    right = (np.random.default_rng(1).random(200) < 0.3).astype(float)
    once = wilson_interval(right, np.ones(200))
    # Four targets of an item that always agree add nothing to one …
    np.testing.assert_allclose(wilson_interval(4 * right, np.full(200, 4.0)), once, rtol=1e-9)
    # … nor do items without targets.
    padding = np.zeros(50)
    padded = wilson_interval(np.append(right, padding), np.append(np.ones(200), padding))
    np.testing.assert_allclose(padded, once, rtol=1e-9)
    # Wilson's own figures where nothing varies: 0 of 30 and 30 of 30.
    np.testing.assert_allclose(wilson_interval(np.zeros(30), np.ones(30)), [0.0, 0.1135], atol=1e-4)
    np.testing.assert_allclose(wilson_interval(np.ones(30), np.ones(30)), [0.8865, 1.0], atol=1e-4)


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
    assert metrics.mean(scores, weights) == pytest.approx(wanted)
    assert np.isnan(metrics.mean(scores, 0 * weights)).all()


def test_f1(pairs):
    scores, labels, weights = pairs
    predicted = scores > 1
    for row, w in enumerate(weights):
        p, y = repeated(predicted, w), repeated(labels, w)
        precision, recall = (p & y).sum() / p.sum(), (p & y).sum() / y.sum()
        wanted = 2 * precision * recall / (precision + recall)
        assert metrics.f1(predicted, labels, weights)[row] == pytest.approx(wanted)
    nothing = np.zeros(40, bool)
    assert metrics.f1(nothing, nothing, ONES) == [0]


def test_auc(pairs):
    scores, labels, weights = pairs
    for row, w in enumerate(weights):
        s, y = repeated(scores, w), repeated(labels, w)
        wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(s[y], s[~y])]
        assert metrics.auc(scores, labels, weights)[row] == pytest.approx(np.mean(wins))
    assert np.isnan(metrics.auc(scores, labels | True, ONES)[0])
    assert metrics.auc(0 * scores, labels, ONES)[0] == 0.5


def test_auc_within_groups_compares_nothing_across_them(pairs):
    scores, labels, weights = pairs
    groups = np.arange(len(scores)) % 3
    found = metrics.auc(scores, labels, weights, groups)
    for row, w in enumerate(weights):
        s, y, g = repeated(scores, w), repeated(labels, w), repeated(groups, w)
        wins = [
            (s[i] > s[j]) + (s[i] == s[j]) / 2
            for i, j in itertools.product(np.flatnonzero(y), np.flatnonzero(~y))
            if g[i] == g[j]
        ]
        assert found[row] == pytest.approx(np.mean(wins))
    # Scores that depend on the group alone, where labels differ by group.
    groups, labels = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 1], bool)
    one = np.ones((1, 6))
    assert metrics.auc(-groups, labels, one)[0] == pytest.approx(6 / 9)
    assert metrics.auc(-groups, labels, one, groups)[0] == 0.5
    assert np.isnan(metrics.auc(groups, groups == 0, one, groups)[0])


def test_threshold_is_the_best_of_all(pairs):
    scores, labels, _ = pairs
    levels = [*np.unique(scores), np.inf]
    best = max(metrics.f1(scores >= t, labels, ONES)[0] for t in levels)
    found = metrics.best_threshold(scores, labels)
    assert metrics.f1(scores >= found, labels, ONES)[0] == best
    assert metrics.best_threshold(scores, labels & False) == np.inf
    assert metrics.best_threshold(np.array([0.0, 1.0]), np.array([False, True])) == 0.5


def test_set_hits_are_the_mean_over_all_orders_of_what_ties():
    scores = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    true = {0: [1, 4], 1: [0], 2: [1, 2, 3]}
    query = np.array([q for q, answers in true.items() for _ in answers])
    answers = np.array([a for answers in true.values() for a in answers])
    better, tied = ranks(scores[answers], scores)
    places = Ranks(better, tied - 1)  # each ties with itself
    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    for k in (1, 2, 3, 5):
        found = metrics.set_hits_at(k, places, query)
        for q, answers_of in true.items():
            shares = [len({*order[:k]} & {*answers_of}) for order in orders]
            assert found[q] == pytest.approx(np.mean(shares) / min(k, len(answers_of)))


def test_interval_is_over_products():
    rng = np.random.default_rng(0)
    of_product = rng.random(50)
    values = np.repeat(of_product, 20)  # twenty questions of a product agree
    bootstrap = Bootstrap([str(i // 20) for i in range(1000)])
    low, high = bootstrap.interval(lambda w: metrics.mean(values, w))
    assert bootstrap.value(lambda w: metrics.mean(values, w)) == pytest.approx(values.mean())
    spread = 1.96 * of_product.std() / np.sqrt(50)
    assert [low, high] == pytest.approx(
        [values.mean() - spread, values.mean() + spread], abs=0.15 * spread
    )
    assert bootstrap.interval(lambda w: metrics.mean(values, w)) == (low, high)
    assert bootstrap.interval(lambda w: np.full(len(w), np.nan)) is None
