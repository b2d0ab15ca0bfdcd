"""The building blocks that only the release has, in the core's terms and with its parameters."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.model.interaction import CoAttentionBlock, Fusion, StructureAggregation, choose
from k3m_jax.model.layers import KeyMask, bias_init

MASKED = -10000.0  # added to the scores of padding


class AdditiveMask(KeyMask):
    """A mask added to the scores: it excludes nothing where a row has nothing else."""

    def softmax(self, scores: jax.Array) -> jax.Array:
        bias = jnp.where(self.valid, 0.0, MASKED)[:, None, None, :]
        return jax.nn.softmax(scores + bias, axis=-1)


class TextCoAttentionBlock(CoAttentionBlock):
    """Between two streams of text: the knowledge takes the image's place."""

    image_axis: ClassVar[str] = "embed"


class ReleasedFusion(Fusion):
    """Fuses rectified features; `hard` draws its choices from bounded logits at evaluation too."""

    @nn.compact
    def __call__(
        self,
        *features: jax.Array,
        temperature: jax.Array | float,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """As `Fusion`; `noise` [B, S, n, width] of `hard` is drawn if None."""
        if self.mode in ("hard", "soft"):
            features = tuple(map(nn.relu, features))
        if self.mode != "hard":
            return super().__call__(*features, temperature=temperature)
        stack = jnp.stack(features, -2)
        logits = jax.nn.sigmoid(self.logits(stack).astype(jnp.float32))
        if noise is None:
            noise = jax.random.gumbel(self.make_rng("gumbel"), logits.shape)
        return choose(stack, logits + noise, temperature)


class ReleasedStructureAggregation(StructureAggregation):
    """With biases of w_2 and of the output map."""

    def scores(self, t: jax.Array) -> jax.Array:
        """The bias is a no-op under softmax, kept to load release checkpoints."""
        scores = super().scores(t)
        return scores + self.param("w2_bias", bias_init("structure_heads"), t.shape[-2:-1])[:, None]

    def combined(self, gathered: jax.Array, mask: jax.Array) -> jax.Array:
        """Without triples nothing is added, not even the bias."""
        out = super().combined(gathered, mask)
        bias = self.param("out_bias", bias_init("norm"), out.shape[-1:]).astype(self.dtype)
        return out + jnp.where(mask.any(1)[:, None], bias, 0)
