"""Initial-interactive feature fusion: what a position was before the interaction, and after it."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.model.layers import dense

Mode = Literal["mean", "soft", "hard", "interactive"]


def straight_through_choice(
    logits: jax.Array, temperature: jax.Array | float, noise: jax.Array | None
) -> jax.Array:
    """One-hot choice along the second to last axis, with the gradient of its Gumbel-softmax.

    Args:
      logits: [..., n, width] float32; each dimension of the width chooses for itself.
      temperature: of the softmax (Jang et al., 2017).
      noise: added to the logits; None chooses the largest of them.
    """
    if noise is not None:
        logits = logits + noise
    soft = jax.nn.softmax(logits / temperature, axis=-2)
    hard = jax.nn.one_hot(logits.argmax(-2), logits.shape[-2], axis=-2, dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))  # the bracket is exactly 0


class Fusion(nn.Module):
    """Fuses n features of each position; the first is the initial one."""

    mode: Mode
    axis: str  # logical name of the width
    dtype: jnp.dtype
    deterministic: bool
    bounded: bool = False  # `hard` chooses by sigmoids of the logits

    @nn.compact
    def __call__(
        self,
        *features: jax.Array,
        temperature: jax.Array | float,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """n features, each [B, S, width] -> fused [B, S, width].

        `mean`: their mean. `interactive`: the mean of all but the first. `soft`:
        `W_o[s_1∘x_1; …; s_n∘x_n]` with `s_k = sigmoid(W_k[x_1; …; x_n])`. `hard`: each dimension is
        that of one feature, chosen by the logits `W_k[x_1; …; x_n]` (at evaluation the largest),
        to which `noise` [B, S, n, width] is added; in training Gumbel noise is drawn if none is
        given.
        """
        stack = jnp.stack(features, -2)  # [B, S, n, width]
        n, width = stack.shape[-2:]
        if self.mode == "mean":
            return stack.mean(-2)
        if self.mode == "interactive":
            return stack[..., 1:, :].mean(-2)
        axes = ("streams", self.axis)
        logits = dense((n, width), (*axes, "scores", "width"), self.dtype, "score", inputs=2)(stack)
        if self.mode == "soft":
            gated = jax.nn.sigmoid(logits) * stack
            return dense(width, (*axes, "width"), self.dtype, "out", inputs=2)(gated)
        scores = logits.astype(jnp.float32)
        if self.bounded:
            scores = jax.nn.sigmoid(scores)
        if noise is None and not self.deterministic:
            noise = jax.random.gumbel(self.make_rng("gumbel"), scores.shape, scores.dtype)
        choice = straight_through_choice(scores, temperature, noise)
        return (choice.astype(self.dtype) * stack).sum(-2)
