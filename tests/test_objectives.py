"""Each loss against its formula written as loops, and each one overfits a batch."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from k3m_jax.data.input.batch import random_batch
from k3m_jax.model.network import Network
from k3m_jax.objectives import masked_object, pretraining
from k3m_jax.objectives.link_prediction import energy, link_margin
from k3m_jax.objectives.masked_language import masked_language
from k3m_jax.objectives.sums import safe_ratio
from tests.tiny import tiny_settings

TASKS = ("mlm", "mom", "lpm")  # of the paper
RNG = np.random.default_rng(0)


def _log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def test_masked_language_counts_the_asked_tokens_alone():
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    targets = RNG.integers(0, 5, (2, 3))
    weights = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    loss, right = masked_language(logits, targets, weights)
    expected = sum(
        -_log_softmax(logits[b, m].astype(np.float64))[targets[b, m]]
        for b in range(2)
        for m in range(3)
        if weights[b, m]
    )
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert loss.weight == right.weight == 3
    assert right.total == ((logits.argmax(-1) == targets) * weights).sum()


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
    loss = masked_object.feature_regression(prediction, features, weights)
    expected = (((prediction - features) ** 2).mean(-1) * weights).sum()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)


def test_noise_contrastive_equals_a_loop_over_its_negatives(monkeypatch):
    monkeypatch.setattr(masked_object, "NCE_NEGATIVES_ELSEWHERE", 6)
    monkeypatch.setattr(masked_object, "NCE_NEGATIVES_WITHIN", 4)
    prediction, features = RNG.normal(size=(2, 4, 3, 5)).astype(np.float32)
    valid = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    weights = valid.astype(np.float32)
    key = jax.random.key(3)
    loss, right = masked_object.noise_contrastive(prediction, features, valid, weights, 2, key)
    item_key, region_key, within_key = jax.random.split(key, 3)
    item = np.asarray(jax.random.randint(item_key, (4, 3, 6), 1, 2))
    region = np.asarray(jax.random.randint(region_key, (4, 3, 6), 0, 3))
    within = np.asarray(jax.random.randint(within_key, (4, 3, 4), 1, 3))
    expected, correct = 0.0, 0
    for b, n in zip(*np.nonzero(weights), strict=True):
        start = b // 2 * 2
        negatives = [
            (start + (b - start + item[b, n, k]) % 2, region[b, n, k]) for k in range(6)
        ] + [(b, (n + within[b, n, k]) % 3) for k in range(4)]
        assert all(row != b for row, _ in negatives[:6])
        scores = [prediction[b, n] @ features[b, n]]
        scores += [prediction[b, n] @ features[r, m] for r, m in negatives if valid[r, m]]
        scores = np.array(scores, np.float64)
        expected -= _log_softmax(scores)[0]
        correct += (scores[0] > scores[1:]).all()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-4)
    assert right.total == correct


def test_noise_contrastive_without_any_negative_costs_nothing():
    prediction = features = np.ones((1, 1, 5), np.float32)
    ones = np.ones((1, 1), np.float32)
    loss, _ = masked_object.noise_contrastive(
        prediction, features, ones > 0, ones, 1, jax.random.key(0)
    )
    assert loss.total == 0


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_link_margin_equals_a_loop_over_pairs(norm):
    B, J, O, D, G = 6, 3, 2, 4, 3
    c = RNG.normal(size=(B, D)).astype(np.float32)
    p, v = RNG.normal(size=(2, B, J, D)).astype(np.float32)
    value_weights = RNG.integers(0, 2, (B, J - 1)).astype(np.float32)
    items = RNG.integers(0, G, (B, O)).astype(np.int32)
    item_weights = RNG.integers(0, 2, (B, O)).astype(np.float32)
    loss, right = link_margin(
        c, p, v, value_weights, items, item_weights, group=G, margin=0.7, norm=norm
    )

    def by_hand(c, p, v):
        return np.linalg.norm((c + p - v).astype(np.float64), ord=1 if norm == "l1" else 2)

    expected, correct, weight = 0.0, 0, 0
    for b in range(B):
        positive = by_hand(c[b], p[b, 0], v[b, 0])
        negatives = [
            by_hand(c[b], p[b, j], v[b, j]) for j in range(1, J) if value_weights[b, j - 1]
        ]
        negatives += [
            by_hand(c[b // G * G + items[b, o]], p[b, 0], v[b, 0])
            for o in range(O)
            if item_weights[b, o]
        ]
        expected += sum(max(0.0, positive - n + 0.7) for n in negatives)
        correct += sum(positive < n for n in negatives)
        weight += len(negatives)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert (right.total, loss.weight) == (correct, weight)


def test_the_energy_of_a_perfect_triple_has_a_finite_gradient():
    c, p, v = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0]), jnp.array([1.5, 2.0])
    value, gradient = jax.value_and_grad(energy)(c, p, v, "l2")
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_nothing_asked_for_costs_nothing_and_is_never_nan():
    value, gradient = jax.value_and_grad(safe_ratio)(jnp.array(0.0), jnp.array(0.0))
    assert (value, gradient) == (0, 0)
    settings = tiny_settings()
    network = Network(settings)
    params = nn.unbox(jax.jit(network.init_params)(jax.random.key(0)))
    batch = random_batch(settings, 4)
    for name in ("mlm_weights", "mom_weights", "link_value_weights", "link_item_weights"):
        batch[name][:] = 0
    results = pretraining.sums(
        jax.jit(network.apply)(params, batch), batch, settings.objectives, None
    )
    assert pretraining.total(results, pretraining.weights(batch), settings.objectives) == 0


def test_the_total_is_the_weighted_sum_of_means_and_adds_up_over_micro_batches():
    settings = tiny_settings()
    network = Network(settings)
    params = nn.unbox(jax.jit(network.init_params)(jax.random.key(0)))
    apply = jax.jit(network.apply)
    batch = random_batch(settings, 8)
    batch["mlm_weights"][:4, 1:] = 0  # micro-batches of unequal weight
    whole = pretraining.weights(batch)

    def results(rows):
        part = {k: v[rows] for k, v in batch.items()}
        return pretraining.sums(apply(params, part), part, settings.objectives, None)

    objectives = dataclasses.replace(
        settings.objectives, lpm=dataclasses.replace(settings.objectives.lpm, weight=2.0)
    )
    full = results(slice(None))
    expected = (
        full["mlm"].total / full["mlm"].weight
        + full["mom"].total / full["mom"].weight
        + 2 * full["lpm"].total / full["lpm"].weight
    )
    total = pretraining.total(full, whole, objectives)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    parts = [pretraining.total(results(slice(i, i + 4)), whole, objectives) for i in (0, 4)]
    np.testing.assert_allclose(sum(parts), total, rtol=1e-5)


@pytest.fixture(scope="module")
def one_batch():
    """A batch, and a training step on it that takes the tasks' weights as an array."""
    settings = tiny_settings()
    network = Network(settings)
    batch = random_batch(settings, 8)
    optimizer = optax.adam(3e-3)
    params = nn.unbox(jax.jit(network.init_params)(jax.random.key(0)))

    @jax.jit
    def step(params, state, task_weights):
        def loss(params):
            results = pretraining.sums(
                network.apply(params, batch), batch, settings.objectives, None
            )
            means = [safe_ratio(*results[task]) for task in TASKS]
            return jnp.stack(means) @ task_weights

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return params, optimizer.init(params), step


@pytest.mark.parametrize("task", TASKS)
def test_each_objective_overfits_one_batch(one_batch, task):
    """Alone, each loss falls below a tenth of where it began."""
    params, state, step = one_batch
    task_weights = jnp.array([float(name == task) for name in TASKS])
    values = []
    for _ in range(150):
        params, state, value = step(params, state, task_weights)
        values.append(float(value))
    assert values[-1] < 0.1 * values[0], values[::15]


@pytest.mark.parametrize("variant", ["regression", "nce"])
def test_the_other_object_losses_are_least_at_the_true_feature(variant):
    features = jnp.asarray(RNG.normal(size=(4, 3, 16)), jnp.float32)
    ones = jnp.ones((4, 3))

    def loss(prediction):
        if variant == "regression":
            return safe_ratio(*masked_object.feature_regression(prediction, features, ones))
        key = jax.random.key(0)
        found, _ = masked_object.noise_contrastive(prediction, features, ones > 0, ones, 2, key)
        return safe_ratio(*found)

    prediction = jnp.zeros_like(features)
    first = loss(prediction)
    for _ in range(60):
        prediction -= 4.0 * jax.grad(loss)(prediction)
    assert loss(prediction) < 0.1 * first
