"""MOM: which regions are hidden; each variant's loss against its formula."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from k3m_jax.modalities.pixels import grid_boxes, overlaps
from k3m_jax.objectives import masked_object
from k3m_jax.objectives.masked_object import choose_regions
from k3m_jax.settings import MaskedObject
from tests.products import collated, detected, examples_of, record
from tests.tiny import DETECTED, TINY

RNG = np.random.default_rng(0)
noise_contrastive = jax.jit(masked_object.noise_contrastive, static_argnames="group")


def choose(boxes, rate, seed, training=True):
    return choose_regions(boxes, rate, np.random.default_rng(seed), training=training)


def _log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def test_nine_in_ten_targets_are_hidden_in_training_and_all_at_evaluation():
    count = 0
    for seed in range(1000):
        targets, hidden = choose(grid_boxes(36), 0.15, seed)
        assert targets.sum() == 5
        assert not (hidden & ~targets).any()
        count += hidden.sum()
        if seed < 50:
            targets, hidden = choose(grid_boxes(36), 0.15, seed, training=False)
            np.testing.assert_array_equal(targets, hidden)
            assert targets.sum() == 5
    assert abs(count / 5000 - 0.9) < 0.022  # 5 standard deviations


def test_a_picture_without_regions_has_no_targets():
    targets, hidden = choose(np.zeros((0, 4), np.float32), 0.15, seed=0)
    assert targets.shape == hidden.shape == (0,)


def test_a_region_that_shows_what_is_hidden_is_hidden_too_but_no_target():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.4, 0.4, 1, 1]], np.float32)
    seen = set()
    for seed in range(200):
        targets, hidden = choose(boxes, 0.3, seed)
        assert targets.sum() == 1
        assert hidden[0] == hidden[1]
        seen.add((int(targets.argmax()), tuple(hidden.tolist())))
    assert (0, (True, True, False)) in seen
    assert (2, (False, False, True)) in seen
    assert not any(hidden[2] for target, hidden in seen if target != 2)


def test_overlap_against_cases_done_by_hand():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 1], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 0.5, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(("variant", "count"), [("kl", 0), ("regression", 1)])
def test_regions_of_unknown_class_are_targets_only_where_no_class_is_needed(variant, count):
    picture = dataclasses.replace(detected(1), class_probs=np.zeros((4, 3), np.float16))
    objectives = dataclasses.replace(TINY.objectives, mom=MaskedObject(variant=variant), group=1)
    settings = dataclasses.replace(DETECTED, objectives=objectives)
    batch = collated(examples_of([record(1, [], picture=picture)], settings), settings)
    assert batch["mom_weights"].sum() == count


def test_class_divergence_is_the_kl_divergence_of_the_kept_classes():
    logits = RNG.normal(size=(2, 3, 6)).astype(np.float32)
    ids = np.stack([[RNG.permutation(6)[:2] for _ in range(3)] for _ in range(2)])
    probs = RNG.dirichlet(np.ones(2), (2, 3)).astype(np.float32)
    probs[0, 0] = (1, 0)
    weights = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
    loss, right = masked_object.class_divergence(logits, ids, probs, weights)
    expected, correct = 0.0, 0
    for b, n in zip(*np.nonzero(weights), strict=True):
        p = np.zeros(6)
        p[ids[b, n]] = probs[b, n]
        q = _log_softmax(logits[b, n].astype(np.float64))
        expected += sum(p[k] * (np.log(p[k]) - q[k]) for k in range(6) if p[k] > 0)
        correct += logits[b, n].argmax() == p.argmax()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert right.total == correct


def test_feature_regression_is_the_mean_square():
    prediction, features = RNG.normal(size=(2, 2, 3, 4)).astype(np.float32)
    weights = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    objective = masked_object.MaskedObject(MaskedObject(variant="regression"), DETECTED.image, 1)
    outputs = types.SimpleNamespace(mom_prediction=prediction)
    batch = {"region_inputs": features, "mom_weights": weights}
    expected = (((prediction - features) ** 2).mean(-1) * weights).sum()
    loss = objective.sums(outputs, batch, None)["mom"]
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)


def test_noise_contrastive_equals_a_loop_over_its_negatives(monkeypatch):
    monkeypatch.setattr(masked_object, "NCE_NEGATIVES_ELSEWHERE", 6)
    monkeypatch.setattr(masked_object, "NCE_NEGATIVES_WITHIN", 4)
    prediction, features = RNG.normal(size=(2, 4, 3, 5)).astype(np.float32)
    valid = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    weights = valid.astype(np.float32)
    key = jax.random.key(3)
    loss, right = noise_contrastive(prediction, features, valid, weights, group=2, key=key)
    item_key, region_key, within_key = jax.random.split(key, 3)
    item = np.asarray(jax.random.randint(item_key, (4, 3, 6), 1, 2))
    region = np.asarray(jax.random.randint(region_key, (4, 3, 6), 0, 3))
    within = np.asarray(jax.random.randint(within_key, (4, 3, 4), 1, 3))
    expected, correct = 0.0, 0
    for b, n in zip(*np.nonzero(weights), strict=True):
        start = b // 2 * 2
        rows = start + (b - start + item[b, n]) % 2
        negatives = list(zip(rows, region[b, n], strict=True))
        negatives += [(b, (n + m) % 3) for m in within[b, n]]
        assert all(row != b for row, _ in negatives[:6])
        scores = [prediction[b, n] @ features[b, n]]
        scores += [prediction[b, n] @ features[r, m] for r, m in negatives if valid[r, m]]
        scores = np.array(scores, np.float64)
        expected -= _log_softmax(scores)[0]
        correct += (scores[0] > scores[1:]).all()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-4)
    assert right.total == correct


def test_noise_contrastive_without_any_negative_costs_nothing():
    features, ones = np.ones((1, 1, 5), np.float32), np.ones((1, 1), np.float32)
    key = jax.random.key(0)
    loss, _ = noise_contrastive(features, features, ones > 0, ones, group=1, key=key)
    assert loss.total == 0
