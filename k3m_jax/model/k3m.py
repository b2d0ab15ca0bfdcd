"""K3M, the `paper` preset: encoders, interactor, fusion, structure aggregation, heads."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.fusion import Fusion
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.image_encoder import ImageEncoder
from k3m_jax.model.interactor import Interactor
from k3m_jax.model.layers import ScanOptions, dense, embedding_init, mean_position
from k3m_jax.model.structure_aggregation import StructureAggregation
from k3m_jax.model.text_encoder import TextEncoder, property_and_value, span_means
from k3m_jax.settings import Settings


class Product(NamedTuple):
    """What the model knows of each product of a batch."""

    title: jax.Array  # [B, T, D] fused
    image: jax.Array  # [B, R, Dv] fused
    embedding: jax.Array  # [B, D] c*, float32
    triple_attention: jax.Array  # [B, H, X]


class Outputs(NamedTuple):
    """What the three objectives read."""

    product: Product
    mlm_logits: jax.Array  # [B, M, V]
    mom_prediction: jax.Array  # [B, N, C] logits, or [B, N, F] features
    link_properties: jax.Array  # [B, J, D], float32
    link_values: jax.Array  # [B, J, D], float32


class K3M(nn.Module):
    """The model as one linen module; `network.Network` is how everyone else calls it."""

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        """Submodules of `settings.model`'s sizes."""
        model = self.settings.model
        self.dtype = jnp.dtype(model.dtype)
        how = {
            "dropout": model.dropout,
            "dtype": self.dtype,
            "looping": ScanOptions.of(model),
            "deterministic": self.deterministic,
        }
        self.text_encoder = TextEncoder(model.text, model.vocabulary, model.positions, **how)
        self.image_encoder = ImageEncoder(model.image, **how)
        self.interactor = Interactor(model.interactor, model.text.width, model.image.width, **how)
        fusion = {"mode": model.fusion.mode, "dtype": self.dtype}
        fusion["deterministic"] = self.deterministic
        self.text_fusion = Fusion(axis="embed", **fusion)
        self.image_fusion = Fusion(axis="image_embed", **fusion)
        self.image_map = dense(model.text.width, ("image_embed", "width"), self.dtype, "image_map")
        self.absent = self.param("absent", embedding_init("norm"), (model.text.width,))
        self.structure = StructureAggregation(model.structure, self.dtype)
        self.mlm_head = MaskedLanguageHead(self.dtype)
        self.mom_head = MaskedObjectHead(self.settings.region_outputs, self.dtype)

    def __call__(self, batch: Batch, temperature: jax.Array | float) -> Outputs:
        """A pretraining batch (see `data.batch`) -> what its objectives read."""
        title, knowledge, candidates = self.text_encoder(
            (batch["title_tokens"], batch["title_mask"]),
            (batch["knowledge_tokens"], batch["knowledge_mask"]),
            (batch["link_tokens"], batch["link_mask"]),
        )
        product = self._product(batch, title, knowledge, temperature)
        properties, values = property_and_value(
            candidates, batch["link_property_spans"], batch["link_value_spans"]
        )
        words = self.text_encoder.embedding.gathered_words()
        return Outputs(
            product,
            self.mlm_head(product.title, batch["mlm_positions"], words),
            self.mom_head(product.image[:, 1:]),
            properties,
            values,
        )

    def product(self, batch: Batch, temperature: jax.Array | float) -> Product:
        """Encodes, interacts, fuses and aggregates; any modality may be absent."""
        title, knowledge = self.text_encoder(
            (batch["title_tokens"], batch["title_mask"]),
            (batch["knowledge_tokens"], batch["knowledge_mask"]),
        )
        return self._product(batch, title, knowledge, temperature)

    def candidates(
        self, tokens: jax.Array, mask: jax.Array, property_spans: jax.Array, value_spans: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Triples free of any product: tokens and mask [Q, L], spans [Q, 2] -> p, v [Q, D]."""
        (hidden,) = self.text_encoder((tokens, mask))
        return property_and_value(hidden, property_spans, value_spans)

    def _product(
        self,
        batch: Batch,
        title: jax.Array,
        knowledge: jax.Array,
        temperature: jax.Array | float,
    ) -> Product:
        """From the encoded title [B, T, D] and knowledge text [B, K, D] on."""
        title_mask, region_mask = batch["title_mask"], batch["region_mask"]
        image = self.image_encoder(
            batch["region_inputs"], batch["region_hidden"], batch["region_boxes"], region_mask
        )
        title_after, image_after = self.interactor(title, image, title_mask, region_mask)
        # Where the other modality is absent nothing interacted: the initial feature stands alone.
        has_title = batch["title_content"].any(1)[:, None, None]
        has_image = region_mask.any(1)[:, None, None]
        fused_title = self.text_fusion(title, title_after, temperature=temperature)
        fused_image = self.image_fusion(image, image_after, temperature=temperature)
        title = jnp.where(has_image, fused_title, title)
        image = jnp.where(has_title, fused_image, image)

        mapped = (self.image_map(image), region_mask)
        c = mean_position([(title, batch["title_content"]), mapped], self.absent)

        triples = batch["triple_mask"]
        if not self.settings.model.structure.heads:
            nobody = jnp.zeros((triples.shape[0], 0, triples.shape[1]))
            return Product(title, image, c.astype(jnp.float32), nobody)
        p = span_means(knowledge, batch["property_spans"])
        v = span_means(knowledge, batch["value_spans"])
        embedding, attention = self.structure(c, p, v, triples)
        return Product(title, image, embedding.astype(jnp.float32), attention)
