import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny_settings

from k3m_jax.model.network import Network
from k3m_jax.settings import Optimizer
from k3m_jax.training.optimizer import decay_mask, learning_rate, make_optimizer


def test_the_rate_rises_and_falls_linearly():
    optimizer = Optimizer(learning_rate=2.0, warmup=0.2)
    rates = [float(learning_rate(optimizer, 10, jnp.int32(step))) for step in range(11)]
    np.testing.assert_allclose(
        rates, [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0], rtol=1e-6
    )


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_ends_of_warm_up_are_finite(warmup):
    rates = [learning_rate(Optimizer(warmup=warmup), 4, jnp.int32(step)) for step in range(4)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(1e-4)


def test_all_but_biases_and_norm_scales_decay():
    params = jax.eval_shape(lambda: Network(tiny_settings()).init_params(jax.random.key(0)))
    mask = {
        jax.tree_util.keystr(path): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(params))
    }
    spared = {path for path, decays in mask.items() if not decays}
    assert spared == {path for path in mask if "['bias']" in path or "['scale']" in path}
    assert any("_norm']" in path for path in spared)
    assert mask["['text_encoder']['words']"]
    assert all(decays for path, decays in mask.items() if "['kernel']" in path)


def test_it_is_adamw():
    """Against optax's own AdamW, with a given mask and rate."""
    optimizer = Optimizer(learning_rate=0.1, weight_decay=0.3, clip_norm=0.0)
    params = {"dense": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}}
    gradient = {"dense": {"kernel": jnp.array([0.5, 0.1]), "bias": jnp.array([-1.0])}}
    mask = {"dense": {"kernel": True, "bias": False}}
    reference = optax.adamw(0.1, 0.9, 0.98, 1e-8, weight_decay=0.3, mask=mask)
    ours = make_optimizer(optimizer)
    expected, ours_state, state = params, ours.init(params), reference.init(params)
    for _ in range(3):
        direction, ours_state = ours.update(gradient, ours_state, params)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
        updates, state = reference.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


def test_clipping_bounds_the_global_norm():
    """Adam forgets a gradient's scale; its moments, from one gradient of norm 5, do not."""
    params = {"kernel": jnp.zeros(2)}
    moments = {}
    for clip in (0.0, 1.0):
        optimizer = make_optimizer(Optimizer(clip_norm=clip))
        _, state = optimizer.update(
            {"kernel": jnp.array([3.0, 4.0])}, optimizer.init(params), params
        )
        moments[clip] = optax.tree.get(state, "mu")["kernel"]
    np.testing.assert_allclose(moments[0.0], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(moments[1.0], [0.06, 0.08], rtol=1e-6)
