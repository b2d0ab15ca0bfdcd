"""The image encoder: regions of a picture, the whole picture first."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model.layers import SelfAttentionLayer, dense, layer_norm, repeat


def region_features(inputs: jax.Array) -> jax.Array:
    """Region inputs [..., F] as float32 features: pixels 0..255 scaled to -1..1, others as is."""
    if inputs.dtype == jnp.uint8:
        return inputs.astype(jnp.float32) / 127.5 - 1
    return inputs.astype(jnp.float32)


class ImageEncoder(nn.Module):
    """`LayerNorm(W_f f + W_l l)` of features f and boxes l, then Transformer layers."""

    sizes: settings.Encoder
    dropout: float
    dtype: jnp.dtype
    remat: bool
    deterministic: bool

    @nn.compact
    def __call__(
        self, inputs: jax.Array, hidden: jax.Array, boxes: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Encodes pictures.

        Args:
          inputs: [B, N, F] pixels of patches (uint8) or a detector's features.
          hidden: [B, N] regions that the model must not see.
          boxes: [B, R, 5] (x1, y1, x2, y2, area) as shares of the picture, the whole one first.
          mask: [B, R] valid regions.

        Returns:
          [B, R, Dv].
        """
        # Hidden regions are blanked before anything else reads them: the mean would tell them.
        seen = (mask[:, 1:] & ~hidden)[..., None]
        features = jnp.where(seen, region_features(inputs), 0.0)
        count = jnp.maximum(mask[:, 1:].sum(1), 1)[:, None, None]
        whole = features.sum(1, keepdims=True) / count
        features = jnp.concatenate([whole, features], 1).astype(self.dtype)
        width = self.sizes.width
        x = dense(width, ("features", "image_embed"), self.dtype, "feature_map")(features)
        x += dense(width, ("box", "image_embed"), self.dtype, "box_map")(boxes.astype(self.dtype))
        x = layer_norm(self.dtype, "norm")(x)
        x = nn.Dropout(self.dropout)(x, deterministic=self.deterministic)
        layers = repeat(
            SelfAttentionLayer,
            self.sizes.layers,
            self.remat,
            width=width,
            heads=self.sizes.heads,
            mlp=self.sizes.mlp,
            axis="image_embed",
            dropout=self.dropout,
            dtype=self.dtype,
            deterministic=self.deterministic,
            name="layers",
        )
        return layers(x, mask)[0]
