"""K3M, the `paper` preset: encoders, interactor, fusion, structure aggregation, heads."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from k3m_jax import modalities
from k3m_jax.data.input.batch import Batch
from k3m_jax.model.encoders import ImageEncoder, TextEncoder, property_and_value, span_means
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.interaction import Fusion, Interactor, StructureAggregation
from k3m_jax.model.layers import Array, KeyMask, Numerics, Scalar, dense, embedding_init
from k3m_jax.model.second_view import has_second_view, second_batch, taken
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import check_choice

# Further modalities by name: modules `stream(settings, numerics)` that map (batch, text encoder) to
# positions [B, S, D] and their mask [B, S], pooled with title and image.
STREAMS: dict[str, type[nn.Module]] = {}


class Product(NamedTuple):
    """The model's representation of each product of a batch."""

    title: Array  # [B, T, D] fused
    image: Array | None  # [B, R, Dv] fused
    embedding: Array  # [B, D] c*, float32
    triple_attention: Array | None  # [B, H, X]


class Outputs(NamedTuple):
    """What the objectives read; None where a model has no such output."""

    product: Product
    mlm_logits: Array  # [B, M, V]
    mom_prediction: Array | None = None  # [B, N, C] logits, or [B, N, F] features
    link_properties: Array | None = None  # [B, J, D], float32
    link_values: Array | None = None  # [B, J, D], float32
    second_embedding: Array | None = None  # [B, D] c* of second views, float32


class K3M(nn.Module):
    """The model as one linen module; everyone else calls it through `network.Network`."""

    rows_independent: ClassVar[bool] = True  # at evaluation

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        model = self.settings.model
        numerics = Numerics.of(model, self.deterministic)
        self.text_encoder = TextEncoder(model.text, model.vocabulary, model.positions, numerics)
        self.image_encoder = ImageEncoder(model.image, numerics)
        self.interactor = Interactor(model.interactor, numerics)
        if model.interactor.knowledge:
            axes = ("embed", "image_embed")
            self.knowledge_map = dense(model.image.width, axes, numerics.dtype, "knowledge_map")
        self.text_fusion = Fusion(model.fusion.mode, "embed", numerics)
        self.image_fusion = Fusion(model.fusion.mode, "image_embed", numerics)
        axes = ("image_embed", "width")
        self.image_map = dense(model.text.width, axes, numerics.dtype, "image_map")
        for name in model.extra_modalities:
            check_choice("model.extra_modalities", name, STREAMS)
        self.extra = {n: STREAMS[n](self.settings, numerics) for n in model.extra_modalities}
        self.empty_product = self.param("absent", embedding_init("norm"), (model.text.width,))
        learned_absence = model.pooling == "modalities"
        if learned_absence:
            shape = (2 + len(self.extra), model.text.width)
            self.absent = self.param("absent_modalities", embedding_init("streams", "norm"), shape)
        sizes = model.structure
        self.structure = StructureAggregation(sizes, numerics.dtype, learned_absence)
        self.mlm_head = MaskedLanguageHead(numerics.dtype)
        self.mom_head = MaskedObjectHead(self.settings.region_outputs, numerics.dtype)

    def __call__(self, batch: Batch, temperature: Scalar) -> Outputs:
        """A pretraining batch (see `data.input.batch`) -> what its objectives read."""
        title, knowledge, candidates = self._encode(batch, "title", "knowledge", "link")
        encoded = {"title": title, "image": self.image_encoder(batch), "knowledge": knowledge}
        product = self._fuse(batch, encoded, temperature)
        second = None
        if has_second_view(batch):  # of the same encodings
            group = self.settings.objectives.group
            shown = {name: taken(x, batch, name, group) for name, x in encoded.items()}
            views = second_batch(batch, modalities.active(self.settings), group)
            second = self._fuse(views, shown, temperature).embedding
        spans = batch["link_property_spans"], batch["link_value_spans"]
        words = self.text_encoder.gathered_words()
        return Outputs(
            product,
            self.mlm_head(product.title, batch["mlm_positions"], words),
            self.mom_head(product.image[:, 1:]),
            *property_and_value(candidates, *spans),
            second,
        )

    def product(self, batch: Batch, temperature: Scalar) -> Product:
        """Encodes, interacts, fuses and aggregates; any modality may be absent."""
        title, knowledge = self._encode(batch, "title", "knowledge")
        encoded = {"title": title, "image": self.image_encoder(batch), "knowledge": knowledge}
        return self._fuse(batch, encoded, temperature)

    def _encode(self, batch: Batch, *names: str) -> tuple[Array, ...]:
        if "packed_tokens" in batch:
            return self.text_encoder.packed(batch, *names, items=self.settings.packing.products)
        return self.text_encoder(*((batch[f"{n}_tokens"], batch[f"{n}_mask"]) for n in names))

    def _fuse(self, batch: Batch, encoded: Mapping[str, Array], temperature: Scalar) -> Product:
        """From the encoded title [B, T, D], image [B, R, Dv] and knowledge text [B, K, D] on."""
        title, image, knowledge = (encoded[name] for name in ("title", "image", "knowledge"))
        regions = batch["region_mask"]
        contexts, known = (batch["title_mask"], regions), ()
        if self.settings.model.interactor.knowledge:
            known = ((self.knowledge_map(knowledge), knowledge),)
            contexts = (jnp.concatenate([m, batch["knowledge_mask"]], 1) for m in contexts)
        title_context, image_context = contexts
        masks = KeyMask(title_context), KeyMask(image_context)
        title_after, image_after = self.interactor(title, image, *masks, *known)
        # Where there is nothing else nothing interacted: the initial feature stands alone.
        has_title, has_image = (m.any(1)[:, None, None] for m in (title_context, image_context))
        fused_title = self.text_fusion(title, title_after, temperature=temperature)
        fused_image = self.image_fusion(image, image_after, temperature=temperature)
        title = jnp.where(has_image, fused_title, title)
        image = jnp.where(has_title, fused_image, image)

        pooled = [(title, batch["title_content"]), (self.image_map(image), regions)]
        pooled += [stream(batch, self.text_encoder) for stream in self.extra.values()]
        if self.settings.model.pooling == "modalities":
            c = mean_modality(pooled, self.absent)
        else:
            c = mean_position(pooled, self.empty_product)

        triples = batch["triple_mask"]
        attention = jnp.zeros((triples.shape[0], 0, triples.shape[1]))  # without heads
        if self.settings.model.structure.heads:
            p = span_means(knowledge, batch["property_spans"])
            v = span_means(knowledge, batch["value_spans"])
            c, attention = self.structure(c, p, v, triples)
        return Product(title, image, c.astype(jnp.float32), attention)


def mean_position(streams: Sequence[tuple[Array, Array]], empty_product: Array) -> Array:
    """Mean over the masked positions of all streams [B, length, width], [B, length] -> [B, width].

    In float32; `empty_product` [width] where no position is left.
    """
    valid = jnp.concatenate([mask for _, mask in streams], 1)
    positions = jnp.concatenate([x for x, _ in streams], 1)
    count = valid.sum(1)[:, None]
    total = jnp.where(valid[..., None], positions.astype(jnp.float32), 0.0).sum(1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), empty_product)


def mean_modality(streams: Sequence[tuple[Array, Array]], absent: Array) -> Array:
    """Mean over the streams of the mean over each one's positions, or of its `absent` [n, width].

    A picture's many regions do not outweigh a title, and c keeps its place when one of them goes.
    """
    means = [mean_position([s], absent[i]) for i, s in enumerate(streams)]
    return jnp.stack(means).mean(0)
