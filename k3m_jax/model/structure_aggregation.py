"""Structure aggregation: a product's own triples, weighed and added to its representation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model.layers import bias_init, dense, embedding_init, kernel_init, masked_softmax

LEAKY_SLOPE = 0.01


class StructureAggregation(nn.Module):
    """`c* = residual(c) + combine_m Σ_x a_x t_x` with `t_x = W_1[c; p_x; v_x]`.

    `a = softmax_x(w_2·LeakyReLU(t_x))` over the item's own triples. Every head m has W_1 and w_2 of
    its own.
    """

    sizes: settings.Structure
    dtype: jnp.dtype
    biases: bool = False  # of w_2 and of the output map

    @nn.compact
    def __call__(
        self, c: jax.Array, p: jax.Array, v: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Aggregates triples.

        Args:
          c: [B, D] product representation.
          p: [B, X, D] properties.
          v: [B, X, D] values.
          mask: [B, X] the item's own triples; none is allowed, and then `c* = residual(c)`.

        Returns:
          c* [B, D] and the attention over triples [B, H, X].
        """
        heads, D = self.sizes.heads, c.shape[-1]
        c, p, v = (x.astype(self.dtype) for x in (c, p, v))
        triples = jnp.stack([jnp.broadcast_to(c[:, None], p.shape), p, v], -2)  # [B, X, 3, D]
        t = dense(
            (heads, D), ("parts", "embed", "structure_heads", "width"), self.dtype, "w1", inputs=2
        )(triples)
        w2 = self.param("w2", embedding_init("structure_heads", "norm"), (heads, D)).astype(
            self.dtype
        )
        if self.sizes.activation == "before":
            score = jnp.einsum("bxhd,hd->bhx", nn.leaky_relu(t, LEAKY_SLOPE), w2)
        else:
            score = nn.leaky_relu(jnp.einsum("bxhd,hd->bhx", t, w2), LEAKY_SLOPE)
        if self.biases:  # it changes no weight: a checkpoint that has one keeps it
            score += self.param("w2_bias", bias_init("structure_heads"), (heads,))[:, None]
        attention = masked_softmax(score, mask[:, None, :], axis=-1)
        gathered = jnp.einsum("bhx,bxhd->bhd", attention.astype(self.dtype), t)
        if self.sizes.combine == "mean":
            gathered = gathered.mean(1)
        else:
            out = kernel_init("structure_heads", "width", "embed")
            kernel = self.param("out", out, (heads, D, D)).astype(self.dtype)
            gathered = jnp.einsum("bhd,hde->be", gathered, kernel)
            if self.biases:  # no triples must add nothing
                bias = self.param("out_bias", bias_init("norm"), (D,)).astype(self.dtype)
                gathered += jnp.where(mask.any(1)[:, None], bias, 0)
        if self.sizes.residual == "linear":
            c = dense(D, ("embed", "width"), self.dtype, "w3")(c)
        return c + gathered, attention
