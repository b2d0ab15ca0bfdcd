import itertools

import numpy as np
import pytest

from k3m_jax.metrics.ranking import Ranks, hits_at, interval, ranks, reciprocal_rank


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
    found = ranks(np.array([true_score]), np.array([others]), np.ones((1, len(others)), int))
    for k in (1, 2, 3, 10):
        np.testing.assert_allclose(hits_at(k, found), [np.mean(expected <= k)], rtol=1e-12)
    np.testing.assert_allclose(reciprocal_rank(found), [np.mean(1 / expected)], rtol=1e-12)


def test_questions_are_independent_of_one_another():
    rng = np.random.default_rng(0)
    true, others = rng.integers(0, 4, 20).astype(float), rng.integers(0, 4, (20, 5)).astype(float)
    counted = rng.integers(0, 2, (20, 5))
    together = ranks(true, others, counted)
    for i in range(20):
        kept = others[i, counted[i] == 1]
        alone = ranks(true[i : i + 1], kept[None], np.ones((1, len(kept)), int))
        assert (together.better[i], together.tied[i]) == (alone.better[0], alone.tied[0])


def test_an_entry_may_stand_for_several_candidates():
    several = ranks(np.array([1.0]), np.array([[2.0, 1.0]]), np.array([[3, 2]]))
    listed = ranks(np.array([1.0]), np.array([[2.0, 2.0, 2.0, 1.0, 1.0]]), np.ones((1, 5), int))
    assert several == listed


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
        # Items of one to four questions that agree with one another half of the time.
        asked = rng.integers(1, 5, 300)
        alike, apart = rng.random(300) < share, rng.random((300, 4)) < share
        right = np.where(rng.random((300, 1)) < 0.5, alike[:, None], apart)
        right = (right * (np.arange(4) < asked[:, None])).sum(1)
        low, high = interval(right.astype(float), asked.astype(float))
        covered += low <= share <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)  # three standard deviations


def test_interval_counts_items_not_questions():
    right = (np.random.default_rng(1).random(200) < 0.3).astype(float)
    once = interval(right, np.ones(200))
    # Four questions about an item that always agree tell no more than one …
    np.testing.assert_allclose(interval(4 * right, np.full(200, 4.0)), once, rtol=1e-9)
    # … and items that were asked nothing tell nothing.
    padding = np.zeros(50)
    padded = interval(np.append(right, padding), np.append(np.ones(200), padding))
    np.testing.assert_allclose(padded, once, rtol=1e-9)
    # Wilson's own figures where nothing varies: 0 of 30 and 30 of 30.
    np.testing.assert_allclose(interval(np.zeros(30), np.ones(30)), [0.0, 0.1135], atol=1e-4)
    np.testing.assert_allclose(interval(np.ones(30), np.ones(30)), [0.8865, 1.0], atol=1e-4)
