"""K3M, the `release` preset: the wiring of the authors' public PyTorch code, to the digit.

Three pairs of streams interact, each through co-attention blocks of its own, while the streams go
on through their own layers. Padding leaks into the pooling, and the choices of `hard` fusion stay
random at evaluation: with that its numbers come out. The `paper` preset has neither.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.fusion import Fusion
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.image_encoder import ImageEncoder, prepend_global_region
from k3m_jax.model.interactor import Interactor
from k3m_jax.model.k3m import Product
from k3m_jax.model.layers import ScanOptions, dense
from k3m_jax.model.structure_aggregation import StructureAggregation
from k3m_jax.model.text_encoder import TextEncoder
from k3m_jax.reproductions.release.interleaving import Schedule, interact
from k3m_jax.settings import Settings

MASKED = -10000.0  # added to the scores of what is not there


class ByModality(NamedTuple):
    """One of something for each modality."""

    title: Any
    image: Any
    knowledge: Any


SAMPLE_NOISE = ByModality(None, None, None)  # noise that is not given


class Streams(NamedTuple):
    """The three streams, fused."""

    fused: ByModality  # [B, T, D], [B, R, Dv], [B, K, D]
    pooled: ByModality  # [B, D] each, float32


class ReleasedOutputs(NamedTuple):
    """What the objectives read, and all that is on the way to it."""

    views: ByModality  # what is fused: each modality as it was, and after it met each of the others
    streams: Streams
    c: jax.Array  # [B, D] before the triples are aggregated, float32
    product: Product
    mlm_logits: jax.Array  # [B, M, V]
    mom_prediction: jax.Array  # [B, N, C] logits
    value_logits: jax.Array  # [B, K, V]
    pair_logits: jax.Array  # [B, 2, 2]: of c* and of another's c beside the same triples
    match_logits: jax.Array  # [B, 2]


class ReleasedK3M(nn.Module):
    """The model as one linen module; `network.Network` is how everyone else calls it."""

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        """Submodules of `settings.model`'s sizes."""
        model, image = self.settings.model, self.settings.image
        text, inter, self.dtype = model.text, model.interactor, jnp.dtype(model.dtype)
        how = {
            "dropout": model.dropout,
            "dtype": self.dtype,
            "looping": ScanOptions.of(model),
            "deterministic": self.deterministic,
        }
        self.text_encoder = TextEncoder(text, model.vocabulary, model.positions, **how)
        self.image_encoder = ImageEncoder(model.image, **how)
        self.title_image = Interactor(inter, text.width, model.image.width, **how)
        self.knowledge_image = Interactor(inter, text.width, model.image.width, **how)
        texts = dataclasses.replace(inter, width=text.width, image_mlp=inter.text_mlp)
        self.title_knowledge = Interactor(texts, text.width, text.width, **how, image_axis="embed")
        # Never deterministic: the choices are drawn at evaluation too.
        fusion = {"mode": model.fusion.mode, "dtype": self.dtype, "deterministic": False}
        self.title_fusion = Fusion(axis="embed", bounded=True, **fusion)
        self.image_fusion = Fusion(axis="image_embed", bounded=True, **fusion)
        self.knowledge_fusion = Fusion(axis="embed", bounded=True, **fusion)
        self.image_map = dense(text.width, ("image_embed", "width"), self.dtype, "image_map")
        self.structure = StructureAggregation(model.structure, self.dtype, biases=True)
        self.mlm_head = MaskedLanguageHead(self.dtype)
        self.mom_head = MaskedObjectHead(image.classes, self.dtype)
        self.pair_head = dense(2, ("embed", "scores"), jnp.float32, "pair_head")
        self.match_head = dense(2, ("embed", "scores"), jnp.float32, "match_head")

    def __call__(self, batch: Batch, temperature: jax.Array | float) -> ReleasedOutputs:
        """A pretraining batch of this preset (see `data.batch`) -> what its objectives read."""
        return self.outputs(self._views(batch), batch, temperature, SAMPLE_NOISE)

    def product(self, batch: Batch, temperature: jax.Array | float) -> Product:
        """Embeds, interacts, fuses, pools and aggregates."""
        streams = self._fused(self._views(batch), temperature, SAMPLE_NOISE)
        return self._product(_initial(streams), streams, batch)

    def interacted(self, features: jax.Array, batch: Batch) -> ByModality:
        """Features [B, R, F] of the regions, the whole picture first, and texts, pair by pair."""
        masks = {
            name: jnp.where(batch[f"{array}_mask"], 0.0, MASKED)
            for name, array in (("title", "title"), ("image", "region"), ("knowledge", "knowledge"))
        }
        initial = {
            "title": self.text_encoder.embedding(batch["title_tokens"]),
            "image": self.image_encoder.embedding(features, batch["region_boxes"]),
            "knowledge": self.text_encoder.embedding(batch["knowledge_tokens"]),
        }
        if self.is_initializing():
            self._make_layers(initial, masks)
        inter = self.settings.model.interactor
        text = Schedule.of(self.text_encoder.stack(), inter.text_layers)
        image = Schedule.of(self.image_encoder.stack(), inter.image_layers)
        schedules = {"title": text, "image": image, "knowledge": text}
        keys = iter(jax.random.split(self.make_rng("dropout"), 6))
        # Up to the first block a stream is the same whatever it is going to meet.
        started = {
            name: schedules[name].start(x, masks[name], next(keys)) for name, x in initial.items()
        }

        def meet(interactor, first, second):
            pairs = ((each[first], each[second]) for each in (schedules, started, masks))
            return interact(interactor.stack(), *pairs, next(keys))

        title_by_image, image_by_title = meet(self.title_image, "title", "image")
        knowledge_by_image, image_by_knowledge = meet(self.knowledge_image, "knowledge", "image")
        title_by_knowledge, knowledge_by_title = meet(self.title_knowledge, "title", "knowledge")
        return ByModality(
            (initial["title"], title_by_image, title_by_knowledge),
            (initial["image"], image_by_title, image_by_knowledge),
            (initial["knowledge"], knowledge_by_image, knowledge_by_title),
        )

    def outputs(
        self, views: ByModality, batch: Batch, temperature: jax.Array | float, noise: ByModality
    ) -> ReleasedOutputs:
        """What follows on the interaction."""
        streams = self._fused(views, temperature, noise)
        c = _initial(streams)
        product = self._product(c, streams, batch)
        fused, words = streams.fused, self.text_encoder.embedding.words
        everywhere = jnp.arange(fused.knowledge.shape[1])
        everywhere = jnp.broadcast_to(everywhere, fused.knowledge.shape[:2])
        # What the triples add to c is added to the next product's c: a false product.
        group = self.settings.objectives.group
        others = jnp.roll(c.reshape(-1, group, c.shape[-1]), -1, 1).reshape(c.shape)
        pair = jnp.stack([product.embedding, others + (product.embedding - c)], 1)
        return ReleasedOutputs(
            views,
            streams,
            c,
            product,
            self.mlm_head(fused.title, batch["mlm_positions"], words),
            self.mom_head(fused.image[:, 1:]),
            self.mlm_head(fused.knowledge, everywhere, words),
            self.pair_head(pair),
            self.match_head(sum(streams.pooled)),
        )

    def _views(self, batch: Batch) -> ByModality:
        names = ("region_inputs", "region_hidden", "region_mask")
        return self.interacted(prepend_global_region(*(batch[name] for name in names)), batch)

    def _fused(
        self, views: ByModality, temperature: jax.Array | float, noise: ByModality
    ) -> Streams:
        fusions = self.title_fusion, self.image_fusion, self.knowledge_fusion
        fused = []
        for fusion, features, drawn in zip(fusions, views, noise, strict=True):
            if fusion.mode in ("hard", "soft"):
                features = map(nn.relu, features)
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

    def _make_layers(self, x: Mapping[str, jax.Array], masks: Mapping[str, jax.Array]) -> None:
        """Parameters come to be when the modules are run as such."""
        self.text_encoder.layers(x["title"], masks["title"])
        self.image_encoder.layers(x["image"], masks["image"])
        for interactor, first, second in (
            (self.title_image, "title", "image"),
            (self.knowledge_image, "knowledge", "image"),
            (self.title_knowledge, "title", "knowledge"),
        ):
            interactor(x[first], x[second], masks[first], masks[second])


def bound(settings: Settings, params: Any) -> ReleasedK3M:
    """The model with parameters, for the features and the noise of somebody else's evaluation."""
    rngs = {name: jax.random.key(0) for name in ("dropout", "gumbel")}
    return ReleasedK3M(settings, deterministic=True).bind({"params": params}, rngs=rngs)


def _initial(streams: Streams) -> jax.Array:
    """C, before the triples are aggregated."""
    return sum(streams.pooled) / 3


def _ends(hidden: jax.Array, spans: jax.Array) -> jax.Array:
    """Mean of the first and the last position: hidden [B, K, D], spans [B, X, 2] -> [B, X, D]."""
    ends = jnp.stack([spans[..., 0], jnp.maximum(spans[..., 1] - 1, 0)], -1)
    B, X, _ = ends.shape
    picked = jnp.take_along_axis(hidden, ends.reshape(B, 2 * X, 1), 1)
    return picked.reshape(B, X, 2, -1).mean(2)
