"""The prediction heads of masked language and masked object modelling."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.model.layers import bias_init, dense, layer_norm


class MaskedLanguageHead(nn.Module):
    """BERT's head: a dense map, GELU, LayerNorm, and a decoder tied to the word table."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: jax.Array, positions: jax.Array, words: jax.Array) -> jax.Array:
        """Hidden [B, T, D], positions [B, M], words [V, D] -> logits [B, M, V], float32.

        Only the M asked positions are decoded: the vocabulary is the widest map of the model.
        """
        x = jnp.take_along_axis(hidden, positions[..., None], 1)
        x = dense(x.shape[-1], ("embed", "width"), self.dtype, "transform")(x)
        x = layer_norm(self.dtype, "norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", bias_init("vocab"), words.shape[:1])
        words = words.astype(self.dtype)
        return jnp.einsum("bmd,vd->bmv", x, words, preferred_element_type=jnp.float32) + bias


class MaskedObjectHead(nn.Module):
    """The same form for regions: class logits (`kl`) or features (`regression`, `nce`)."""

    outputs: int  # C or F
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Hidden [B, N, Dv] -> [B, N, outputs], float32."""
        width = hidden.shape[-1]
        x = dense(width, ("image_embed", "width"), self.dtype, "transform")(hidden)
        x = layer_norm(self.dtype, "norm")(nn.gelu(x, approximate=False))
        # Rounded to bfloat16, likely classes would tie, or change places.
        axes = ("image_embed", "classes")
        return dense(self.outputs, axes, self.dtype, "decoder", rounded=False)(x)
