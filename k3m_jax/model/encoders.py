"""The encoders: embeddings, then Transformer layers, of texts (BERT) and of a picture's regions."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from k3m_jax import settings
from k3m_jax.data.input.batch import Batch
from k3m_jax.modalities.picture import float_features
from k3m_jax.model import layers
from k3m_jax.model.layers import Array, KeyMask, Numerics, SelfAttentionLayer, scan_layers
from k3m_jax.parallel.shardings import constrain


class TextEncoder(nn.Module):
    """One encoder for titles, knowledge texts and candidate triples."""

    sizes: settings.Encoder
    vocabulary: int
    positions: int
    numerics: Numerics

    def setup(self) -> None:
        s, numerics = self.sizes, self.numerics

        def table(name: str, axis: str, rows: int) -> Array:
            return self.param(name, layers.embedding_init(axis, "embed"), (rows, s.width))

        self.words = table("words", "vocab", self.vocabulary)
        self.position_table = table("position_table", "positions", self.positions)
        # BERT's token types: every text here is of type 0, and imported weights have both.
        self.type_table = table("type_table", "types", 2)
        self.norm = layers.layer_norm(numerics.dtype, "norm")
        self.drop = numerics.dropout_layer()
        self.layers = scan_layers(SelfAttentionLayer, s.layers, s, "embed", numerics=numerics)

    def __call__(self, *texts: tuple[Array, Array]) -> tuple[Array, ...]:
        """Texts (tokens, mask), both [B, …, S] of one B -> last hidden states [B, …, S, D] of each.

        Each is encoded by itself, but they pass the layers as one row per item, so that sharded
        parameters are gathered once for all.
        """
        batch = texts[0][0].shape[0]
        rows = [tokens.reshape(batch, -1) for tokens, _ in texts]
        masks = TextMasks(tuple(mask.reshape(batch, -1, mask.shape[-1]) for _, mask in texts))
        places = [np.tile(np.arange(m.shape[2]), m.shape[1]) for m in masks.masks]
        x = self.embed(jnp.concatenate(rows, 1), np.concatenate(places))
        parts = zip(masks.split(self.layers(x, masks)[0]), texts, strict=True)
        return tuple(part.reshape(*tokens.shape, -1) for part, (tokens, _) in parts)

    def packed(self, batch: Batch, *names: str, items: int) -> tuple[Array, ...]:
        """The same of texts by name, packed `items` items at a time (`data.input.packing`).

        Hidden states are 0 where a text has no token.
        """
        x = self.embed(batch["packed_tokens"], batch["packed_positions"])
        hidden = self.layers(x, SegmentMask(batch["packed_segments"]))[0]
        texts = ((batch[f"{name}_start"], batch[f"{name}_mask"]) for name in names)
        return tuple(unpacked(hidden, *text, items) for text in texts)

    def embed(self, tokens: Array, positions: np.ndarray | Array | None = None) -> Array:
        """Tokens [B, S] and their positions, [S] or [B, S] (0, 1, … by default) -> [B, S, D]."""
        if positions is None:
            positions = np.arange(tokens.shape[1])
        # Gather sharded tables first; otherwise activations are all-gathered.
        places = constrain(self.position_table, "positions", "width")
        types = constrain(self.type_table, "types", "width")
        x = self.norm(self.gathered_words()[tokens] + places[positions] + types[0])
        return self.drop(constrain(x, "batch", "length", "width"))

    def gathered_words(self) -> Array:
        """The word table [V, D] with its width whole, as the lookup and the MLM head read it."""
        return constrain(self.words, "vocab", "width")


class TextMasks(NamedTuple):
    """Texts laid one after another in a row: each attends to itself alone.

    A mask [B, n, S] stands for n texts of S tokens each; `masks` are in the order of the row.
    """

    masks: tuple[Array, ...]

    def attend(self, q: Array, k: Array, v: Array, dropout: layers.DropoutLayer) -> Array:
        """As `KeyMask.attend`."""
        attended = []
        for mask, *qkv in zip(self.masks, *map(self.split, (q, k, v)), strict=True):
            S = mask.shape[-1]
            texts = (x.reshape(-1, S, *x.shape[2:]) for x in qkv)
            out = KeyMask(mask.reshape(-1, S)).attend(*texts, dropout)
            attended.append(out.reshape(qkv[0].shape))
        return jnp.concatenate(attended, 1)

    def split(self, row: Array) -> list[Array]:
        """A row [B, length, …] as its texts [B, n * S, …]."""
        ends = np.cumsum([math.prod(mask.shape[1:]) for mask in self.masks])
        return jnp.split(row, ends[:-1], axis=1)


class SegmentMask(NamedTuple):
    """Packed texts: a position attends to those of its own segment; to none in segment 0."""

    segments: Array  # [B, S] int32

    def attend(self, q: Array, k: Array, v: Array, dropout: layers.DropoutLayer) -> Array:
        """As `KeyMask.attend`."""
        queries, keys = self.segments[:, None, :, None], self.segments[:, None, None, :]
        allowed = (queries == keys) & (keys > 0)
        return layers.attend(
            q, k, v, lambda scores: layers.masked_softmax(scores, allowed, -1), dropout
        )


def unpacked(hidden: Array, starts: Array, mask: Array, items: int) -> Array:
    """Packed rows [N, length, D] -> texts [B, …, S, D], 0 outside their `mask` [B, …, S].

    `starts` [B, …] are places within the rows of each pack of `items` items.
    """
    packs, width = len(starts) // items, hidden.shape[-1]
    places = hidden.reshape(packs, -1, width)
    index = starts[..., None] + jnp.arange(mask.shape[-1])
    index = jnp.where(mask, index, places.shape[1]).reshape(packs, -1, 1)
    texts = jnp.take_along_axis(places, index, 1, mode="fill", fill_value=0)
    return texts.reshape(*mask.shape, width)


def property_and_value(hidden: Array, p_spans: Array, v_spans: Array) -> tuple[Array, Array]:
    """Encoded candidates [..., L, D] and their spans [..., 2] -> p, v [..., D], float32."""
    means = span_means(hidden, jnp.stack([p_spans, v_spans], -2))
    return means[..., 0, :], means[..., 1, :]


def span_means(hidden: Array, spans: Array) -> Array:
    """Mean of hidden [..., S, D] over each [start, end) of spans [..., X, 2] -> [..., X, D].

    In float32; an empty span gives 0. Padding must be finite: all spans are one matrix product.
    """
    position = jnp.arange(hidden.shape[-2])
    inside = (position >= spans[..., :1]) & (position < spans[..., 1:])
    hidden, weights = hidden[..., None, :, :], inside.astype(hidden.dtype)
    total = jnp.einsum("...lw,...l->...w", hidden, weights, preferred_element_type=jnp.float32)
    return total / jnp.maximum(inside.sum(-1), 1)[..., None]


class ImageEmbedding(nn.Module):
    """`LayerNorm(W_f f + W_l l)` of features f and boxes l, dropout."""

    width: int
    numerics: Numerics

    @nn.compact
    def __call__(self, features: Array, boxes: Array) -> Array:
        """Features [B, R, F], boxes [B, R, 5] (x1, y1, x2, y2, area; shares) -> [B, R, Dv]."""
        dtype = self.numerics.dtype
        features, boxes = features.astype(dtype), boxes.astype(dtype)
        x = layers.dense(self.width, ("features", "image_embed"), dtype, "feature_map")(features)
        x += layers.dense(self.width, ("box", "image_embed"), dtype, "box_map")(boxes)
        return self.numerics.dropout_layer()(layers.layer_norm(dtype, "norm")(x))


def regions_of(batch: Batch) -> Array:
    """The regions' features [B, R, F] of a batch, the global region first, float32.

    Pixels (uint8) are scaled to -1..1, a detector's features are left as they are. Hidden regions
    are zeroed first: the global region is the mean of all regions and would otherwise leak them.
    """
    features, valid = float_features(batch["region_inputs"]), batch["region_mask"][:, 1:]
    visible = valid & ~batch["region_hidden"] if "region_hidden" in batch else valid
    features = jnp.where(visible[..., None], features, 0.0)
    count = jnp.maximum(valid.sum(1), 1)[:, None, None]
    return jnp.concatenate([features.sum(1, keepdims=True) / count, features], 1)


class ImageEncoder(nn.Module):
    """The encoder of a picture's regions, with a global region first."""

    sizes: settings.Encoder
    numerics: Numerics
    embed: type[nn.Module] = ImageEmbedding  # or another with the same fields and arguments

    def setup(self) -> None:
        s, numerics = self.sizes, self.numerics
        self.embedding = self.embed(s.width, numerics)
        nn.share_scope(self, self.embedding)  # in parameter names
        self.layers = scan_layers(SelfAttentionLayer, s.layers, s, "image_embed", numerics=numerics)

    def __call__(self, batch: Batch) -> Array:
        """The regions of a batch -> [B, R, Dv], the global one first."""
        embedded = self.embedding(regions_of(batch), batch["region_boxes"])
        return self.layers(embedded, KeyMask(batch["region_mask"]))[0]
