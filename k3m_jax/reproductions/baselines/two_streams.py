"""The baselines with an encoder per modality and blocks in which they interact."""

from typing import ClassVar

import flax.linen as nn
import jax

from k3m_jax import settings
from k3m_jax.data.input.batch import Batch
from k3m_jax.model.encoders import ImageEmbedding, ImageEncoder
from k3m_jax.model.interaction import CoAttentionBlock, Interactor, Pair
from k3m_jax.model.layers import (
    Attention,
    KeyMask,
    Mask,
    Numerics,
    TransformerLayer,
    dense,
    layer_norm,
)
from k3m_jax.reproductions.baselines.baseline import Baseline, Streams


class Vilbert(Baseline):
    """ViLBERT (Lu et al., 2019): K3M's encoders and interactor, without fusion or triples.

    As in K3M, all layers come before the first block; ViLBERT's own code alternates them.
    """

    region_embedding: ClassVar[type[nn.Module]] = ImageEmbedding
    block: ClassVar[type[nn.Module]] = CoAttentionBlock

    def setup(self) -> None:
        """The image encoder and the interactor."""
        super().setup()
        model, numerics = self.settings.model, self.numerics
        self.image_encoder = ImageEncoder(model.image, numerics, self.region_embedding)
        self.interactor = Interactor(model.interactor, numerics, self.block)

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D] and image [B, R, Dv] after the interaction."""
        (text,) = self.text_encoder((batch["title_tokens"], batch["title_mask"]))
        masks = KeyMask(batch["title_mask"]), KeyMask(batch["region_mask"])
        return self.interactor(text, self.image_encoder(batch), *masks)


class RegionEmbedding(nn.Module):
    """`(LayerNorm(W_f f) + LayerNorm(W_l l)) / 2` of features f and corners l, dropout."""

    width: int
    numerics: Numerics

    @nn.compact
    def __call__(self, features: jax.Array, boxes: jax.Array) -> jax.Array:
        """Features [B, R, F] and boxes [B, R, 4 or more], the corners first -> [B, R, Dv]."""
        dtype = self.numerics.dtype
        features, corners = features.astype(dtype), boxes[..., :4].astype(dtype)
        x = dense(self.width, ("features", "image_embed"), dtype, "feature_map")(features)
        y = dense(self.width, ("box", "image_embed"), dtype, "box_map")(corners)
        x = layer_norm(dtype, "feature_norm")(x) + layer_norm(dtype, "box_norm")(y)
        return self.numerics.dropout_layer()(x / 2)


class CrossModalityLayer(nn.Module):
    """Each stream attends to the other with the same weights, then to itself; then feed-forward."""

    sizes: settings.Interactor
    numerics: Numerics

    @nn.compact
    def __call__(self, streams: Pair, text_mask: Mask, image_mask: Mask) -> tuple[Pair, None]:
        """Streams (text [B, T, D], image [B, R, D]) -> the same, after one exchange."""
        text, image = streams
        s, numerics = self.sizes, self.numerics
        sizes = (s.width, s.heads)
        cross = Attention(*sizes, "embed", "embed", numerics, name="cross_attention")
        norm = layer_norm(numerics.dtype, "cross_norm")
        drop = numerics.dropout_layer()
        text, image = (
            norm(text + drop(cross(text, image, image_mask))),
            norm(image + drop(cross(image, text, text_mask))),
        )
        axes = ("embed", "embed")
        text_layer = TransformerLayer(*sizes, s.text_mlp, *axes, numerics, name="text")
        axes = ("image_embed", "image_embed")
        image_layer = TransformerLayer(*sizes, s.image_mlp, *axes, numerics, name="image")
        return (text_layer(text, text, text_mask), image_layer(image, image, image_mask)), None


class Lxmert(Vilbert):
    """LXMERT (Tan and Bansal, 2019): cross-modality layers after the encoders.

    It has one width throughout, since both streams share the cross-attention's weights.
    """

    region_embedding = RegionEmbedding
    block = CrossModalityLayer
