"""Attention and its helpers against plain NumPy in float64."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax import settings as s
from k3m_jax.model.encoders import span_means
from k3m_jax.model.layers import (
    Attention,
    Dropout,
    KeyMask,
    Numerics,
    SelfAttentionLayer,
    gelu,
    masked_softmax,
    scan_layers,
)

RNG = np.random.default_rng(0)
NUMERICS = Numerics(dropout=0.0, dtype=jnp.dtype("float32"), deterministic=True)
SIZES = s.Encoder(layers=3, width=8, heads=2, mlp=16)


def _attention_by_loops(params, x, context, mask, heads):
    """One query and one head at a time, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    out = np.zeros((*x.shape[:2], p["out"]["kernel"].shape[-1]))
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            total = p["out"]["bias"].copy()
            for h in range(heads):
                q = x[b, i] @ p["query"]["kernel"][:, h] + p["query"]["bias"][h]
                keys = [j for j in range(context.shape[1]) if mask[b, j]]
                if not keys:
                    continue
                k = context[b, keys] @ p["key"]["kernel"][:, h] + p["key"]["bias"][h]
                v = context[b, keys] @ p["value"]["kernel"][:, h] + p["value"]["bias"][h]
                score = k @ q / np.sqrt(len(q))
                weight = np.exp(score - score.max())
                total += (weight / weight.sum()) @ v @ p["out"]["kernel"][h]
            out[b, i] = total
    return out


def test_gelu_and_its_derivative_are_exact():
    x = np.linspace(-6, 6, 101)
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    slopes = below + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    value, slope = jax.vmap(jax.value_and_grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, x * below, atol=1e-6)
    np.testing.assert_allclose(slope, slopes, atol=1e-6)


@pytest.mark.parametrize(("rate", "share"), [(0.1, 26 / 256), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_dropout_drops_256ths_and_scales_the_rest(rate, share):
    x = jnp.ones((64, 32, 37))
    dropped = np.asarray(Dropout(rate, False).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    # 76,000 draws: the deviation of a share of them is 0.002 at most.
    assert (dropped == 0).mean() == pytest.approx(share, abs=0.01)
    if share < 1:
        np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - share), rtol=1e-6)
    # Neither rows nor places are dropped together.
    assert np.ptp((dropped == 0).mean((0, 1))) < 0.1
    assert np.ptp((dropped == 0).mean((1, 2))) < 0.1
    assert (np.asarray(Dropout(rate, True).apply({}, x)) == 1).all()


def test_attention_equals_loops_over_queries_and_heads():
    x, context = RNG.normal(size=(3, 4, 6)), RNG.normal(size=(3, 5, 10))
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    module = Attention(8, 2, "embed", "image_embed", NUMERICS)
    arguments = [*(jnp.asarray(a, jnp.float32) for a in (x, context)), KeyMask(mask)]
    params = nn.unbox(module.init(jax.random.key(0), *arguments)["params"])
    params = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), jnp.float32), params)
    ours = module.apply({"params": params}, *arguments)
    expected = _attention_by_loops(params, x, context, mask, heads=2)
    # float32 against float64 sums of a few dozen terms of size about 10.
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_masked_softmax_of_nothing_is_zero_with_a_finite_gradient():
    scores = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = jnp.array([[True, False, True], [False, False, False]])
    out = masked_softmax(scores, mask, axis=-1)
    expected = np.exp([1.0, 3.0]) / np.exp([1.0, 3.0]).sum()
    np.testing.assert_allclose(out[0], [expected[0], 0, expected[1]], rtol=1e-6)
    np.testing.assert_array_equal(out[1], 0)
    gradient = jax.grad(lambda s: (masked_softmax(s, mask, -1) ** 2).sum())(scores)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], 0)


def test_span_means_are_means_over_each_span_and_zero_for_an_empty_one():
    hidden = RNG.normal(size=(2, 7, 5)).astype(np.float32)
    spans = np.array([[[0, 7], [2, 3], [4, 4]], [[1, 4], [3, 6], [0, 0]]], np.int32)
    out = span_means(jnp.asarray(hidden), jnp.asarray(spans))
    for b in range(2):
        for x in range(3):
            start, end = spans[b, x]
            expected = hidden[b, start:end].mean(0) if end > start else np.zeros(5)
            np.testing.assert_allclose(out[b, x], expected, rtol=1e-5, atol=1e-6)


def test_span_means_of_bfloat16_are_not_rounded_to_it():
    hidden = jnp.asarray(RNG.normal(3, 1, size=(2, 64, 5)), jnp.bfloat16)
    out = span_means(hidden, np.array([[[0, 61]], [[5, 64]]], np.int32))
    expected = [np.asarray(hidden[0, :61], float).mean(0), np.asarray(hidden[1, 5:], float).mean(0)]
    # Sums of some 60 numbers of about 3 in float32; bfloat16 has 8 bits.
    np.testing.assert_allclose(out[:, 0], expected, rtol=1e-5)


def scanned(numerics):
    return scan_layers(SelfAttentionLayer, 3, SIZES, "embed", numerics=numerics)


@pytest.fixture(scope="module")
def stack():
    """Parameters of three layers, an input and its mask."""
    x = jnp.asarray(RNG.normal(size=(2, 5, 8)), jnp.float32)
    mask = KeyMask(jnp.array([[True] * 5, [True] * 3 + [False] * 2]))
    return nn.unbox(scanned(NUMERICS).init(jax.random.key(0), x, mask)), x, mask


def test_scanned_layers_equal_the_layers_one_after_another(stack):
    params, x, mask = stack
    ours, _ = scanned(NUMERICS).apply(params, x, mask)
    y = x
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], params["params"])
        y, _ = SelfAttentionLayer(SIZES, "embed", NUMERICS).apply({"params": layer}, y, mask)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-6)


def differentiated(x, mask, **numerics):
    """Loss and gradient of the layers, as a function of their parameters and a key."""

    def loss(params, key):
        module = scanned(dataclasses.replace(NUMERICS, **numerics))
        out, _ = module.apply(params, x, mask, rngs={"dropout": key})
        return (out**2).sum() + (out**3).sum()

    return jax.jit(jax.value_and_grad(loss))


def test_remat_and_unrolling_change_no_value_and_no_gradient(stack):
    params, x, mask = stack
    train = {"dropout": 0.2, "deterministic": False}

    def run(**loop):
        return jax.device_get(differentiated(x, mask, **train, **loop)(params, jax.random.key(3)))

    plain = run()
    for loop in ({"remat": True}, {"unroll": True}, {"remat": True, "unroll": True}):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, run(**loop)
        )


def test_unrolled_layers_have_no_loop_and_keep_rematerialisation(stack):
    params, x, mask = stack

    def lowered(remat, unroll):
        return differentiated(x, mask, remat=remat, unroll=unroll).lower(params, jax.random.key(3))

    assert "while(" in lowered(False, False).compile().as_text()
    for remat in (False, True):
        assert "while(" not in lowered(remat, True).compile().as_text()
    # A barrier keeps CSE from undoing rematerialisation; a loop needs none.
    barriers = {
        each: "optimization_barrier" in lowered(*each).as_text()
        for each in ((False, True), (True, True), (True, False))
    }
    assert barriers == {(False, True): False, (True, True): True, (True, False): False}
