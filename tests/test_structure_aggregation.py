"""Structure aggregation against a literal loop over items, heads and triples."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax import settings
from k3m_jax.model.interaction import StructureAggregation

B, X, D = 4, 5, 6
RNG = np.random.default_rng(0)
C, P, V = (RNG.normal(size=s) for s in ((B, D), (B, X, D), (B, X, D)))
# All triples, some, one, none.
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


def _leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def _by_loops(params, sizes):
    """METHOD as it is written, in float64: the embedding and the attention."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    out, attention = np.zeros((B, D)), np.zeros((B, sizes.heads, X))
    for b in range(B):
        gathered = []
        for m in range(sizes.heads):
            t = np.zeros((X, D))
            score = np.full(X, -np.inf)
            for x in range(X):
                t[x] = p["w1"]["bias"][m] + sum(
                    part @ p["w1"]["kernel"][i, :, m]
                    for i, part in enumerate((C[b], P[b, x], V[b, x]))
                )
                if MASK[b, x]:
                    if sizes.activation == "before":
                        score[x] = p["w2"][m] @ _leaky(t[x])
                    else:
                        score[x] = _leaky(p["w2"][m] @ t[x])
            if MASK[b].any():
                weight = np.exp(score - score.max())
                attention[b, m] = weight / weight.sum()
            gathered.append(attention[b, m] @ t)
        if sizes.combine == "mean":
            total = np.mean(gathered, 0)
        else:
            total = sum(g @ p["out"][m] for m, g in enumerate(gathered))
        residual = C[b]
        if sizes.residual == "linear":
            residual = C[b] @ p["w3"]["kernel"] + p["w3"]["bias"]
        out[b] = residual + total
    return out, attention


def _module_and_params(sizes):
    module = StructureAggregation(sizes, jnp.float32)
    inputs = [jnp.asarray(a, jnp.float32) for a in (C, P, V)]
    params = nn.unbox(module.init(jax.random.key(0), *inputs, MASK)["params"])
    rng = np.random.default_rng(1)
    return (
        module,
        jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), params),
        inputs,
    )


@pytest.mark.parametrize(
    ("activation", "residual", "combine"),
    list(itertools.product(("before", "after"), ("linear", "identity"), ("mean", "concat"))),
)
def test_equals_the_literal_loop(activation, residual, combine):
    sizes = settings.Structure(heads=3, activation=activation, residual=residual, combine=combine)
    module, params, inputs = _module_and_params(sizes)
    ours, attention = module.apply({"params": params}, *inputs, MASK)
    expected, expected_attention = _by_loops(params, sizes)
    # float32 against float64; the scores are of size 10, so the attention loses two digits.
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(attention, expected_attention, rtol=1e-4, atol=1e-5)


def test_an_item_without_triples_keeps_its_residual_alone():
    sizes = settings.Structure(heads=3, residual="identity")
    module, params, inputs = _module_and_params(sizes)
    ours, attention = module.apply({"params": params}, *inputs, MASK)
    np.testing.assert_array_equal(ours[3], inputs[0][3])
    np.testing.assert_array_equal(attention[3], 0)


def test_each_head_has_parameters_of_its_own():
    _, params, _ = _module_and_params(settings.Structure(heads=8))
    assert params["w1"]["kernel"].shape == (3, D, 8, D)
    assert params["w2"].shape == (8, D)


def test_the_order_of_triples_and_what_is_masked_change_nothing():
    module, params, (c, p, v) = _module_and_params(settings.Structure(heads=2))
    ours, _ = module.apply({"params": params}, c, p, v, MASK)
    order = np.array([3, 1, 4, 0, 2])
    shuffled, _ = module.apply({"params": params}, c, p[:, order], v[:, order], MASK[:, order])
    np.testing.assert_allclose(ours, shuffled, rtol=1e-5, atol=1e-5)
    noise = jnp.where(MASK[..., None], p, 1e4)
    masked, _ = module.apply({"params": params}, c, noise, v, MASK)
    np.testing.assert_array_equal(ours, masked)
