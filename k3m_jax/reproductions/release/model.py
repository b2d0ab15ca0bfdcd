"""K3M, the `release` preset: the wiring of the authors' public PyTorch code, to the digit.

Three pairs of streams interact, each through co-attention blocks of its own, while the streams
continue through their own layers. Padding leaks into the pooling, and the choices of `hard` fusion
stay random at evaluation: both are needed to reproduce its numbers. The `paper` preset has neither.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.encoders import ImageEncoder, TextEncoder, regions_of
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.interaction import Interactor
from k3m_jax.model.k3m import Product
from k3m_jax.model.layers import Numerics, SelfAttentionLayer, dense
from k3m_jax.reproductions.release.interleaving import Schedule, Stack, interact
from k3m_jax.reproductions.release.layers import (
    AdditiveMask,
    ReleasedFusion,
    ReleasedStructureAggregation,
    TextCoAttentionBlock,
)
from k3m_jax.settings import Settings


class ByModality(NamedTuple):
    """One of something for each modality."""

    title: Any
    image: Any
    knowledge: Any


SAMPLE_NOISE = ByModality(None, None, None)  # noise to be drawn


class Streams(NamedTuple):
    """The three streams, fused."""

    fused: ByModality  # [B, T, D], [B, R, Dv], [B, K, D]
    pooled: ByModality  # [B, D] each, float32


class ReleasedOutputs(NamedTuple):
    """What the objectives read, and all that is on the way to it."""

    # Of each modality the initial features, and those after interacting with each of the others.
    contextualized: ByModality
    streams: Streams
    c: jax.Array  # [B, D] before the triples are aggregated, float32
    product: Product
    mlm_logits: jax.Array  # [B, M, V]
    mom_prediction: jax.Array  # [B, N, C] logits
    value_logits: jax.Array  # [B, K, V]
    pair_logits: jax.Array  # [B, 2, 2]: of c* and of another product's c with the same triples
    match_logits: jax.Array  # [B, 2]


class ReleasedK3M(nn.Module):
    """The model as one linen module; everyone else calls it through `network.Network`."""

    rows_independent: ClassVar[bool] = False  # fusion draws for each row of a batch

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        """Submodules of `settings.model`'s sizes."""
        model, image = self.settings.model, self.settings.image
        text, inter, mode = model.text, model.interactor, model.fusion.mode
        numerics = Numerics.of(model, self.deterministic)
        dtype = numerics.dtype
        self.text_encoder = TextEncoder(text, model.vocabulary, model.positions, numerics)
        self.image_encoder = ImageEncoder(model.image, numerics)
        self.title_image = Interactor(inter, numerics)
        self.knowledge_image = Interactor(inter, numerics)
        texts = dataclasses.replace(inter, width=text.width, image_mlp=inter.text_mlp)
        self.title_knowledge = Interactor(texts, numerics, TextCoAttentionBlock)
        self.title_fusion = ReleasedFusion(mode, "embed", numerics)
        self.image_fusion = ReleasedFusion(mode, "image_embed", numerics)
        self.knowledge_fusion = ReleasedFusion(mode, "embed", numerics)
        self.image_map = dense(text.width, ("image_embed", "width"), dtype, "image_map")
        self.structure = ReleasedStructureAggregation(model.structure, dtype)
        self.mlm_head = MaskedLanguageHead(dtype)
        self.mom_head = MaskedObjectHead(image.classes, dtype)
        self.pair_head = dense(2, ("embed", "scores"), jnp.float32, "pair_head")
        self.match_head = dense(2, ("embed", "scores"), jnp.float32, "match_head")

    def __call__(self, batch: Batch, temperature: jax.Array | float) -> ReleasedOutputs:
        """A pretraining batch of this preset -> what its objectives read."""
        return self.outputs(self._contextualized(batch), batch, temperature, SAMPLE_NOISE)

    def product(self, batch: Batch, temperature: jax.Array | float) -> Product:
        """Embeds, interacts, fuses, pools and aggregates."""
        streams = self._fused(self._contextualized(batch), temperature, SAMPLE_NOISE)
        return self._product(_initial(streams), streams, batch)

    def interacted(self, features: jax.Array, batch: Batch) -> ByModality:
        """Features [B, R, F], the global region first, and texts -> contextualized features."""
        masks = {
            name: AdditiveMask(batch[f"{array}_mask"])
            for name, array in (("title", "title"), ("image", "region"), ("knowledge", "knowledge"))
        }
        initial = {
            "title": self.text_encoder.embed(batch["title_tokens"]),
            "image": self.image_encoder.embedding(features, batch["region_boxes"]),
            "knowledge": self.text_encoder.embed(batch["knowledge_tokens"]),
        }
        if self.is_initializing():
            self._make_layers(initial, masks)
        inter = self.settings.model.interactor
        text = Schedule.of(_layers(self.text_encoder, "embed"), inter.text_layers)
        image = Schedule.of(_layers(self.image_encoder, "image_embed"), inter.image_layers)
        schedules = {"title": text, "image": image, "knowledge": text}
        keys = iter(jax.random.split(self.make_rng("dropout"), 6))
        # Up to the first block a stream does not depend on its partner.
        started = {
            name: schedules[name].start(x, masks[name], next(keys)) for name, x in initial.items()
        }

        def meet(interactor, first, second):
            pairs = ((each[first], each[second]) for each in (schedules, started, masks))
            return interact(_blocks(interactor), *pairs, next(keys))

        title_by_image, image_by_title = meet(self.title_image, "title", "image")
        knowledge_by_image, image_by_knowledge = meet(self.knowledge_image, "knowledge", "image")
        title_by_knowledge, knowledge_by_title = meet(self.title_knowledge, "title", "knowledge")
        return ByModality(
            (initial["title"], title_by_image, title_by_knowledge),
            (initial["image"], image_by_title, image_by_knowledge),
            (initial["knowledge"], knowledge_by_image, knowledge_by_title),
        )

    def outputs(
        self,
        contextualized: ByModality,
        batch: Batch,
        temperature: jax.Array | float,
        noise: ByModality,
    ) -> ReleasedOutputs:
        """From the contextualized features on."""
        streams = self._fused(contextualized, temperature, noise)
        c = _initial(streams)
        product = self._product(c, streams, batch)
        fused, words = streams.fused, self.text_encoder.words
        everywhere = jnp.arange(fused.knowledge.shape[1])
        everywhere = jnp.broadcast_to(everywhere, fused.knowledge.shape[:2])
        # The triples' contribution to c, added to the next product's c: a false product.
        group = self.settings.objectives.group
        others = jnp.roll(c.reshape(-1, group, c.shape[-1]), -1, 1).reshape(c.shape)
        pair = jnp.stack([product.embedding, others + (product.embedding - c)], 1)
        return ReleasedOutputs(
            contextualized,
            streams,
            c,
            product,
            self.mlm_head(fused.title, batch["mlm_positions"], words),
            self.mom_head(fused.image[:, 1:]),
            self.mlm_head(fused.knowledge, everywhere, words),
            self.pair_head(pair),
            self.match_head(sum(streams.pooled)),
        )

    def _contextualized(self, batch: Batch) -> ByModality:
        return self.interacted(regions_of(batch), batch)

    def _fused(
        self, contextualized: ByModality, temperature: jax.Array | float, noise: ByModality
    ) -> Streams:
        fusions = self.title_fusion, self.image_fusion, self.knowledge_fusion
        fused = []
        for fusion, features, drawn in zip(fusions, contextualized, noise, strict=True):
            fused.append(fusion(*features, temperature=temperature, noise=drawn))
        # Over all positions but the first, padding included.
        title, image, knowledge = (x[:, 1:].astype(jnp.float32).mean(1) for x in fused)
        image = self.image_map(image).astype(jnp.float32)
        return Streams(ByModality(*fused), ByModality(title, image, knowledge))

    def _product(self, c: jax.Array, streams: Streams, batch: Batch) -> Product:
        title, image, knowledge = streams.fused
        p, v = (_ends(knowledge, batch[f"{name}_spans"]) for name in ("property", "value"))
        embedding, attention = self.structure(c, p, v, batch["triple_mask"])
        return Product(title, image, embedding.astype(jnp.float32), attention)

    def _make_layers(self, x: Mapping[str, jax.Array], masks: Mapping[str, AdditiveMask]) -> None:
        """Initialises parameters, which flax does when the modules themselves are called."""
        self.text_encoder.layers(x["title"], masks["title"])
        self.image_encoder.layers(x["image"], masks["image"])
        for interactor, first, second in (
            (self.title_image, "title", "image"),
            (self.knowledge_image, "knowledge", "image"),
            (self.title_knowledge, "title", "knowledge"),
        ):
            interactor(x[first], x[second], masks[first], masks[second])


def bound(settings: Settings, params: Any) -> ReleasedK3M:
    """The model with parameters, for given features and noise."""
    rngs = {name: jax.random.key(0) for name in ("dropout", "gumbel")}
    return ReleasedK3M(settings, deterministic=True).bind({"params": params}, rngs=rngs)


def _layers(encoder: TextEncoder | ImageEncoder, axis: str) -> Stack:
    layer = SelfAttentionLayer(encoder.sizes, axis, encoder.numerics, parent=None)
    return Stack.of(encoder.layers, layer)


def _blocks(interactor: Interactor) -> Stack:
    block = interactor.block(interactor.sizes, interactor.numerics, parent=None)
    return Stack.of(interactor.blocks, block)


def _initial(streams: Streams) -> jax.Array:
    """C, before the triples are aggregated."""
    return sum(streams.pooled) / 3


def _ends(hidden: jax.Array, spans: jax.Array) -> jax.Array:
    """Mean of the first and the last position: hidden [B, K, D], spans [B, X, 2] -> [B, X, D]."""
    ends = jnp.stack([spans[..., 0], jnp.maximum(spans[..., 1] - 1, 0)], -1)
    B, X, _ = ends.shape
    picked = jnp.take_along_axis(hidden, ends.reshape(B, 2 * X, 1), 1)
    return picked.reshape(B, X, 2, -1).mean(2)
