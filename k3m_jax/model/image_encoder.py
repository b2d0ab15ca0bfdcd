"""The image encoder: regions of a picture, the whole picture first."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model.layers import (
    ScanOptions,
    SelfAttentionLayer,
    Stack,
    dense,
    layer_norm,
    scan_layers,
)


def region_features(inputs: jax.Array) -> jax.Array:
    """Region inputs [..., F] as float32 features: pixels 0..255 scaled to -1..1, others as is."""
    if inputs.dtype == jnp.uint8:
        return inputs.astype(jnp.float32) / 127.5 - 1
    return inputs.astype(jnp.float32)


def prepend_global_region(inputs: jax.Array, hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Region inputs [B, N, F], hidden [B, N] and mask [B, R] -> features [B, R, F], float32.

    Hidden regions are blanked before anything else reads them: the whole picture, which is the mean
    of its regions, would tell them.
    """
    seen = (mask[:, 1:] & ~hidden)[..., None]
    features = jnp.where(seen, region_features(inputs), 0.0)
    count = jnp.maximum(mask[:, 1:].sum(1), 1)[:, None, None]
    whole = features.sum(1, keepdims=True) / count
    return jnp.concatenate([whole, features], 1)


class ImageEmbedding(nn.Module):
    """`LayerNorm(W_f f + W_l l)` of features f and boxes l, dropout."""

    width: int
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, features: jax.Array, boxes: jax.Array) -> jax.Array:
        """Features [B, R, F] and boxes [B, R, 5] -> [B, R, Dv]."""
        features, boxes = features.astype(self.dtype), boxes.astype(self.dtype)
        x = dense(self.width, ("features", "image_embed"), self.dtype, "feature_map")(features)
        x += dense(self.width, ("box", "image_embed"), self.dtype, "box_map")(boxes)
        x = layer_norm(self.dtype, "norm")(x)
        return nn.Dropout(self.dropout)(x, deterministic=self.deterministic)


class ImageEncoder(nn.Module):
    """Embeddings of regions, then Transformer layers."""

    sizes: settings.Encoder
    dropout: float
    dtype: jnp.dtype
    looping: ScanOptions
    deterministic: bool
    embed: type[nn.Module] = ImageEmbedding  # or another of the same fields and arguments

    def setup(self) -> None:
        """The embedding's parameters lie beside the layers."""
        self.embedding = self.embed(self.sizes.width, self.dropout, self.dtype, self.deterministic)
        nn.share_scope(self, self.embedding)
        fields = SelfAttentionLayer.fields_in(self, "image_embed")
        self.layers = scan_layers(
            SelfAttentionLayer, self.sizes.layers, self.looping, **fields, name="layers"
        )

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
        features = prepend_global_region(inputs, hidden, mask)
        return self.layers(self.embedding(features, boxes), mask)[0]

    def stack(self) -> Stack:
        """The layers, for another schedule than one after the other."""
        fields = SelfAttentionLayer.fields_in(self, "image_embed")
        return Stack.of(self.layers, SelfAttentionLayer, self.looping, **fields)
