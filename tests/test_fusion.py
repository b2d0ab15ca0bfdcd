"""The four fusion modes against their formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax.model.interaction import Fusion, choose
from k3m_jax.model.layers import Numerics

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=(2, 3, 8)).astype(np.float32) for _ in range(2))


def _fusion(mode, deterministic=True):
    module, still = (
        Fusion(mode, "embed", Numerics(0.0, jnp.dtype("float32"), each))
        for each in (deterministic, True)
    )
    init = still.init(jax.random.key(0), A, B, temperature=1.0)
    params = jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(size=a.shape), jnp.float32), nn.unbox(init)
    )
    return module, params


def _logits(params):
    """W_a[a;b] and W_b[a;b] written out: [2, 3, 2, 8]."""
    kernel, bias = (
        np.asarray(params["params"]["score"][k], np.float64) for k in ("kernel", "bias")
    )
    both = np.concatenate([A, B], -1)
    return np.stack([both @ kernel[:, :, k].reshape(16, 8) + bias[k] for k in (0, 1)], -2)


def test_mean_and_interactive():
    module, params = _fusion("mean")
    np.testing.assert_allclose(
        module.apply(params, A, B, temperature=1.0), (A + B) / 2, rtol=1e-6, atol=1e-7
    )
    module, params = _fusion("interactive")
    np.testing.assert_array_equal(module.apply(params, A, B, temperature=1.0), B)


def test_soft_gates_each_feature_and_maps_both():
    module, params = _fusion("soft")
    s = 1 / (1 + np.exp(-_logits(params)))
    kernel, bias = (np.asarray(params["params"]["out"][k], np.float64) for k in ("kernel", "bias"))
    expected = (s[..., 0, :] * A) @ kernel[0] + (s[..., 1, :] * B) @ kernel[1] + bias
    np.testing.assert_allclose(
        module.apply(params, A, B, temperature=1.0), expected, rtol=1e-4, atol=1e-4
    )


def test_hard_takes_the_feature_of_the_larger_logit_at_evaluation():
    module, params = _fusion("hard")
    logits = _logits(params)
    expected = np.where(logits[..., 0, :] >= logits[..., 1, :], A, B)
    for temperature in (1.0, 0.1):
        ours = module.apply(params, A, B, temperature=temperature)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_hard_is_noisy_in_training_and_still_takes_one_feature_per_dimension():
    module, params = _fusion("hard", deterministic=False)
    params = jax.tree.map(jnp.zeros_like, params)  # equal logits: a fair coin
    many = [
        module.apply(params, A, B, temperature=1.0, rngs={"gumbel": jax.random.key(i)})
        for i in range(20)
    ]
    from_a = np.isclose(many, A, atol=1e-6)
    assert (from_a ^ np.isclose(many, B, atol=1e-6)).all()
    # 20 · 48 fair choices: 0.5 ± 4 standard errors of 0.016.
    assert abs(from_a.mean() - 0.5) < 0.065


def test_logits_are_not_squashed_so_that_choices_can_become_sure():
    module, params = _fusion("hard", deterministic=False)
    params = jax.tree.map(jnp.zeros_like, params)
    params["params"]["score"]["bias"] = params["params"]["score"]["bias"].at[0].set(20.0)
    ours = module.apply(params, A, B, temperature=1.0, rngs={"gumbel": jax.random.key(0)})
    np.testing.assert_allclose(ours, A, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_choice_has_the_gradient_of_its_softmax(temperature):
    logits, stack = (jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32) for _ in range(2))
    ours = jax.grad(lambda z: choose(stack, z, temperature).sum())(logits)
    soft = jax.grad(lambda z: (stack * jax.nn.softmax(z / temperature, -2)).sum())(logits)
    np.testing.assert_allclose(ours, soft, rtol=1e-5)
    chosen = np.where(logits[0] > logits[1], *stack)
    np.testing.assert_allclose(choose(stack, logits, temperature), chosen, atol=1e-6)
