"""LXMERT (Tan and Bansal, 2019): two streams and cross-modality layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model.baselines.two_streams import TwoStreams
from k3m_jax.model.layers import Attention, TransformerLayer, dense, layer_norm


class RegionEmbedding(nn.Module):
    """`(LayerNorm(W_f f) + LayerNorm(W_l l)) / 2` of features f and corners l, dropout."""

    width: int
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, features: jax.Array, boxes: jax.Array) -> jax.Array:
        """Features [B, R, F] and boxes [B, R, 4 or more], the corners first -> [B, R, Dv]."""
        features, corners = features.astype(self.dtype), boxes[..., :4].astype(self.dtype)
        x = dense(self.width, ("features", "image_embed"), self.dtype, "feature_map")(features)
        y = dense(self.width, ("box", "image_embed"), self.dtype, "box_map")(corners)
        x = layer_norm(self.dtype, "feature_norm")(x) + layer_norm(self.dtype, "box_norm")(y)
        return nn.Dropout(self.dropout)(x / 2, deterministic=self.deterministic)


class CrossModalityLayer(nn.Module):
    """Each stream attends to the other, by the same weights, then to itself; then feed-forward."""

    sizes: settings.Interactor
    text_width: int
    image_width: int  # the same
    dropout: float
    dtype: jnp.dtype
    deterministic: bool
    image_axis: str = "image_embed"

    @nn.compact
    def __call__(
        self, streams: tuple[jax.Array, jax.Array], text_mask: jax.Array, image_mask: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        """Streams (text [B, T, D], image [B, R, D]) -> the same, after one exchange."""
        text, image = streams
        width, heads = self.sizes.width, self.sizes.heads
        how = (self.dropout, self.dtype, self.deterministic)
        cross = Attention(width, width, heads, "embed", "embed", *how, name="cross_attention")
        norm = layer_norm(self.dtype, "cross_norm")
        drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
        text, image = (
            norm(text + drop(cross(text, image, image_mask))),
            norm(image + drop(cross(image, text, text_mask))),
        )

        def layer(axis: str, mlp: int, name: str) -> TransformerLayer:
            return TransformerLayer(width, width, heads, mlp, axis, axis, *how, name=name)

        text = layer("embed", self.sizes.text_mlp, "text")(text, text, text_mask)
        image = layer(self.image_axis, self.sizes.image_mlp, "image")(image, image, image_mask)
        return (text, image), None


class Lxmert(TwoStreams):
    """Of one width throughout, since both streams share the cross-attention's weights."""

    region_embedding = RegionEmbedding
    block = CrossModalityLayer
