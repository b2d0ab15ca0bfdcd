"""What all objectives have in common: the total, no targets, and that each overfits one batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from k3m_jax import objectives
from k3m_jax.objectives.base import safe_ratio
from k3m_jax.settings import LinkPrediction, UserError
from tests.random_batch import random_batch
from tests.tiny import TINY, tiny_program

OBJECTIVES = objectives.active(TINY)


@pytest.fixture(scope="module")
def model():
    """Parameters, and the sums of all objectives, jitted."""
    program = tiny_program()

    @jax.jit
    def sums(params, batch):
        return objectives.sums(OBJECTIVES, program.network.apply(params, batch), batch, None)

    return program.init().params, sums


def test_the_objectives_of_a_run_are_those_of_its_preset_and_extra_ones():
    assert [o.name for o in OBJECTIVES] == ["mlm", "mom", "lpm"]
    chosen = dataclasses.replace(TINY.objectives, extra=("nothing",))
    with pytest.raises(UserError, match=r"objectives\.extra"):
        objectives.active(dataclasses.replace(TINY, objectives=chosen))


def test_without_targets_the_loss_is_0_and_never_nan(model):
    value, gradient = jax.value_and_grad(safe_ratio)(jnp.array(0.0), jnp.array(0.0))
    assert (value, gradient) == (0, 0)
    params, sums = model
    batch = random_batch(TINY, 8)
    for name in (name for o in OBJECTIVES for name in o.weight_arrays):
        batch[name][:] = 0
    weights = objectives.target_weights(OBJECTIVES, batch)
    assert objectives.total(OBJECTIVES, sums(params, batch), weights) == 0


def test_the_total_is_the_weighted_sum_of_means_and_adds_up_over_micro_batches(model):
    params, sums = model
    mlm, mom, lpm = OBJECTIVES
    kinds = mlm, mom, dataclasses.replace(lpm, options=LinkPrediction(weight=2.0))
    batch = random_batch(TINY, 8)
    batch["mlm_weights"][:4, 1:] = 0  # micro-batches of unequal weight
    whole = objectives.target_weights(kinds, batch)
    full = sums(params, batch)
    means = {name: total / weight for name, (total, weight) in full.items()}
    total = objectives.total(kinds, full, whole)
    np.testing.assert_allclose(total, means["mlm"] + means["mom"] + 2 * means["lpm"], rtol=1e-6)
    halves = [{k: v[i : i + 4] for k, v in batch.items()} for i in (0, 4)]
    parts = [objectives.total(kinds, sums(params, half), whole) for half in halves]
    np.testing.assert_allclose(parts[0] + parts[1], total, rtol=1e-5)


@pytest.fixture(scope="module")
def one_batch(model):
    """A training step on one batch that takes the objectives' weights as an array."""
    (params, sums), batch, optimizer = model, random_batch(TINY, 8), optax.adam(1e-2)

    @jax.jit
    def step(params, state, weights):
        def loss(params):
            results = sums(params, batch)
            return jnp.stack([safe_ratio(*results[o.name]) for o in OBJECTIVES]) @ weights

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return params, optimizer.init(params), step


@pytest.mark.slow
@pytest.mark.parametrize("name", [o.name for o in OBJECTIVES])
def test_each_objective_overfits_one_batch(one_batch, name):
    """Alone, each loss falls below a tenth of where it began."""
    params, state, step = one_batch
    weights = jnp.array([float(o.name == name) for o in OBJECTIVES])
    values = []
    for _ in range(40):
        params, state, value = step(params, state, weights)
        values.append(float(value))
    assert values[-1] < 0.1 * values[0], values[::15]
