"""What the baselines share: the text encoder, the pooling, the heads.

A baseline is what it makes of the two streams; nothing else tells it from another. The embedding
is pooled as K3M pools c, so that a comparison is one of architectures.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import BATCH_GROUPS, Batch
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.k3m import Product
from k3m_jax.model.layers import ScanOptions, dense, embedding_init, mean_position
from k3m_jax.model.text_encoder import TextEncoder, property_and_value
from k3m_jax.settings import Settings

Streams = tuple[jax.Array, jax.Array | None]  # text [B, T, D] and image [B, R, Dv]


class BaselineOutputs(NamedTuple):
    """What the objectives read."""

    product: Product
    mlm_logits: jax.Array  # [B, M, V]
    mom_prediction: jax.Array | None  # [B, N, C] logits, or [B, N, F] features


class Baseline(nn.Module):
    """A model as one linen module; `network.Network` is how everyone else calls it."""

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        """The shared parts; a baseline adds its own."""
        model, dtype = self.settings.model, jnp.dtype(self.settings.model.dtype)
        self.text_encoder = TextEncoder(
            model.text, model.vocabulary, model.positions, **self.how, looping=ScanOptions.of(model)
        )
        self.absent = self.param("absent", embedding_init("norm"), (model.text.width,))
        self.mlm_head = MaskedLanguageHead(dtype)
        if "picture" in BATCH_GROUPS[model.preset]:
            axes = ("image_embed", "width")
            self.image_map = dense(model.text.width, axes, dtype, "image_map")
            self.mom_head = MaskedObjectHead(self.settings.region_outputs, dtype)

    def streams(self, batch: Batch) -> Streams:
        """What the model makes of text and picture, either of which may be absent."""
        raise NotImplementedError

    def __call__(self, batch: Batch, temperature: jax.Array | float) -> BaselineOutputs:
        """A pretraining batch of the preset (see `data.batch`) -> what its objectives read."""
        product = self.product(batch, temperature)
        words = self.text_encoder.embedding.gathered_words()
        return BaselineOutputs(
            product,
            self.mlm_head(product.title, batch["mlm_positions"], words),
            None if product.image is None else self.mom_head(product.image[:, 1:]),
        )

    def product(self, batch: Batch, temperature: jax.Array | float) -> Product:
        """The streams and their pooled embedding; `temperature` is of no choice here."""
        text, image = self.streams(batch)
        pooled = [(text, batch["title_content"])]
        if image is not None:
            pooled.append((self.image_map(image), batch["region_mask"]))
        return Product(text, image, mean_position(pooled, self.absent), None)

    def candidates(
        self, tokens: jax.Array, mask: jax.Array, property_spans: jax.Array, value_spans: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Triples free of any product: tokens and mask [Q, L], spans [Q, 2] -> p, v [Q, D]."""
        (hidden,) = self.text_encoder((tokens, mask))
        return property_and_value(hidden, property_spans, value_spans)

    @property
    def how(self) -> dict[str, Any]:
        """Arguments that all submodules take."""
        model = self.settings.model
        return {
            "dropout": model.dropout,
            "dtype": jnp.dtype(model.dtype),
            "deterministic": self.deterministic,
        }
