"""Texts that pass the encoder as one row per item, against each by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax import settings as s
from k3m_jax.model.encoders import TextEncoder
from k3m_jax.model.layers import KeyMask, Numerics

B, T, K, J, L = 3, 5, 9, 4, 6
SIZES = s.Encoder(layers=2, width=32, heads=4, mlp=64)
ENCODER = TextEncoder(SIZES, 50, 12, Numerics(0.0, jnp.dtype("float32"), deterministic=True))
ABSENT = 1  # the item without knowledge


def text(*shape, lengths):
    """Random tokens of `shape`, padding included, and their mask."""
    tokens = np.random.default_rng(len(shape)).integers(0, 50, shape)
    return tokens, np.arange(shape[-1]) < np.array(lengths)[..., None]


@pytest.fixture(scope="module")
def texts():
    """Title, knowledge, and candidates, of which the last is padding alone."""
    return (
        text(B, T, lengths=[5, 1, 3]),
        text(B, K, lengths=[7, 0, 9]),
        text(B, J, L, lengths=[[6, 2, 4, 0], [1, 1, 1, 1], [6, 6, 6, 5]]),
    )


@pytest.fixture(scope="module")
def params(texts):
    return nn.unbox(ENCODER.init(jax.random.key(0), *texts))


@pytest.fixture(scope="module")
def together(params):
    return jax.jit(lambda *texts: ENCODER.apply(params, *texts))


@pytest.fixture(scope="module")
def alone(params):
    """A pass of its own for one text, under a plain mask: tokens and mask [N, S] -> [N, S, D]."""

    def plain(encoder, tokens, mask):
        return encoder.layers(encoder.embed(tokens), KeyMask(mask))[0]

    return jax.jit(lambda tokens, mask: ENCODER.apply(params, tokens, mask, method=plain))


def test_together_texts_give_what_each_gives_alone(texts, together, alone):
    for packed, (tokens, mask) in zip(together(*texts), texts, strict=True):
        assert packed.shape == (*tokens.shape, SIZES.width)
        length = tokens.shape[-1]
        expected = alone(tokens.reshape(-1, length), mask.reshape(-1, length))
        # Rounding of matrix products of other shapes; the values are of the size of 1.
        np.testing.assert_allclose(packed, expected.reshape(packed.shape), rtol=0, atol=5e-6)


def test_no_text_sees_another(texts, together):
    before = together(*texts)
    for changed, (tokens, mask) in enumerate(texts):
        others = list(texts)
        others[changed] = (tokens + 1) % 50, np.zeros_like(mask)
        after = together(*others)
        for k in range(len(texts)):
            same = bool((np.asarray(before[k]) == np.asarray(after[k])).all())
            assert same == (k != changed)


def test_candidates_of_one_item_do_not_see_each_other(texts, together):
    title, knowledge, (tokens, mask) = texts
    changed = tokens.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 50
    before = np.asarray(together(*texts)[2])
    after = np.asarray(together(title, knowledge, (changed, mask))[2])
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])
    assert (before[:, 0] != after[:, 0]).any(-1).all()


def test_padding_and_an_absent_text_are_seen_by_none(texts, together):
    padded = [(np.where(mask, tokens, 7), mask) for tokens, mask in texts]
    for before, after, (_, mask) in zip(together(*texts), together(*padded), texts, strict=True):
        np.testing.assert_array_equal(np.asarray(before)[mask], np.asarray(after)[mask])
        assert np.isfinite(before).all()
    assert not texts[1][1][ABSENT].any()
