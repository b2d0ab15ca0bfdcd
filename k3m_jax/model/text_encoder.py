"""The text encoder (BERT), shared by titles, knowledge texts and candidate triples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax import settings
from k3m_jax.model.layers import (
    ScanOptions,
    SelfAttentionLayer,
    Stack,
    constrain,
    embedding_init,
    layer_norm,
    masked_mean,
    scan_layers,
)
from k3m_jax.parallel import shardings

Text = tuple[jax.Array, jax.Array]  # tokens and mask


class TextEmbedding(nn.Module):
    """Word, position and type embeddings, LayerNorm, dropout."""

    width: int
    vocabulary: int
    positions: int
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    def setup(self) -> None:
        """Tables; that of the words is read again by the MLM head."""
        width = self.width
        self.words = self.param("words", embedding_init("vocab", "embed"), (self.vocabulary, width))
        self.position_table = self.param(
            "position_table", embedding_init("positions", "embed"), (self.positions, width)
        )
        # BERT's token types: every text here is of type 0, and imported weights have both.
        self.type_table = self.param("type_table", embedding_init("types", "embed"), (2, width))
        self.norm = layer_norm(self.dtype, "norm")
        self.drop = nn.Dropout(self.dropout, deterministic=self.deterministic)

    def __call__(self, tokens: jax.Array, positions: np.ndarray | None = None) -> jax.Array:
        """Tokens [B, S], and the positions [S] in their texts (0, 1, … by default) -> [B, S, D]."""
        if positions is None:
            positions = np.arange(tokens.shape[1])
        # Where tables are split by their width they are put together before they are looked up, or
        # each hidden state would be.
        places = shardings.constrain(self.position_table, "positions", "width")
        types = shardings.constrain(self.type_table, "types", "width")
        x = self.gathered_words()[tokens] + places[positions] + types[0]
        return self.drop(constrain(self.norm(x)))

    def gathered_words(self) -> jax.Array:
        """The word table [V, D] with its width whole, as the lookup and the MLM head read it."""
        return shardings.constrain(self.words, "vocab", "width")


class TextEncoder(nn.Module):
    """Embeddings, then Transformer layers."""

    sizes: settings.Encoder
    vocabulary: int
    positions: int
    dropout: float
    dtype: jnp.dtype
    looping: ScanOptions
    deterministic: bool

    def setup(self) -> None:
        """The embeddings' parameters lie beside the layers."""
        self.embedding = TextEmbedding(
            self.sizes.width,
            self.vocabulary,
            self.positions,
            self.dropout,
            self.dtype,
            self.deterministic,
        )
        nn.share_scope(self, self.embedding)
        fields = SelfAttentionLayer.fields_in(self, "embed")
        self.layers = scan_layers(
            SelfAttentionLayer, self.sizes.layers, self.looping, **fields, name="layers"
        )

    def __call__(self, *texts: Text) -> tuple[jax.Array, ...]:
        """Encodes texts, each by itself.

        Args:
          texts: pairs of tokens [B, …, S] and the mask of valid ones, with the same B. They pass
            the layers as one row per item, so that on several devices each parameter is put
            together once for all of them.

        Returns:
          The last hidden states [B, …, S, D] of each.
        """
        batch = texts[0][0].shape[0]
        rows = [tokens.reshape(batch, -1) for tokens, _ in texts]
        masks = tuple(mask.reshape(batch, -1, mask.shape[-1]) for _, mask in texts)
        positions = np.concatenate([np.tile(np.arange(m.shape[2]), m.shape[1]) for m in masks])
        x, _ = self.layers(self.embedding(jnp.concatenate(rows, 1), positions), masks)
        ends = np.cumsum([row.shape[1] for row in rows])
        parts = jnp.split(x, ends[:-1], axis=1)
        return tuple(
            part.reshape(*tokens.shape, -1) for part, (tokens, _) in zip(parts, texts, strict=True)
        )

    def stack(self) -> Stack:
        """The layers, for another schedule than one after the other."""
        fields = SelfAttentionLayer.fields_in(self, "embed")
        return Stack.of(self.layers, SelfAttentionLayer, self.looping, **fields)


def property_and_value(
    hidden: jax.Array, property_spans: jax.Array, value_spans: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Encoded candidates [..., L, D] and their spans [..., 2] -> p, v [..., D], float32."""
    spans = jnp.stack([property_spans, value_spans], -2)
    means = span_means(hidden, spans)
    return means[..., 0, :], means[..., 1, :]


def span_means(hidden: jax.Array, spans: jax.Array) -> jax.Array:
    """Mean of hidden [..., S, D] over each [start, end) of spans [..., X, 2] -> [..., X, D].

    In float32; an empty span gives 0.
    """
    position = jnp.arange(hidden.shape[-2])
    inside = (position >= spans[..., :1]) & (position < spans[..., 1:])
    return masked_mean(hidden[..., None, :, :], inside)
