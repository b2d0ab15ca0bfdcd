"""What the baselines share: the text encoder, the pooling, the heads.

A baseline is what it makes of the two streams. The embedding is pooled as K3M pools c, so that a
comparison is one of architectures.
"""

from typing import ClassVar

import flax.linen as nn
import jax

from k3m_jax import modalities
from k3m_jax.data.input.batch import Batch
from k3m_jax.model.encoders import TextEncoder
from k3m_jax.model.heads import MaskedLanguageHead, MaskedObjectHead
from k3m_jax.model.k3m import Outputs, Product, mean_position
from k3m_jax.model.layers import Numerics, dense, embedding_init
from k3m_jax.model.second_view import has_second_view, second_batch
from k3m_jax.settings import Settings
from k3m_jax.settings.presets import PRESETS

Streams = tuple[jax.Array, jax.Array | None]  # text [B, T, D] and image [B, R, Dv]


class Baseline(nn.Module):
    """A model as one linen module; everyone else calls it through `network.Network`."""

    rows_independent: ClassVar[bool] = True  # at evaluation

    settings: Settings
    deterministic: bool

    def setup(self) -> None:
        """The shared parts; a baseline adds its own."""
        model = self.settings.model
        self.numerics = Numerics.of(model, self.deterministic)
        dtype = self.numerics.dtype
        sizes = (model.text, model.vocabulary, model.positions)
        self.text_encoder = TextEncoder(*sizes, self.numerics)
        self.empty_product = self.param("absent", embedding_init("norm"), (model.text.width,))
        self.mlm_head = MaskedLanguageHead(dtype)
        if "image" in PRESETS[model.preset].modalities:
            axes = ("image_embed", "width")
            self.image_map = dense(model.text.width, axes, dtype, "image_map")
            self.mom_head = MaskedObjectHead(self.settings.region_outputs, dtype)

    def streams(self, batch: Batch) -> Streams:
        """The model's features of text and image, either of which may be absent."""
        raise NotImplementedError

    def __call__(self, batch: Batch, temperature: jax.Array | float) -> Outputs:
        """A pretraining batch of the preset (see `data.input.batch`) -> what objectives read."""
        product = self.product(batch, temperature)
        words, second = self.text_encoder.gathered_words(), None
        if has_second_view(batch):
            kinds, group = modalities.active(self.settings), self.settings.objectives.group
            second = self.product(second_batch(batch, kinds, group), temperature).embedding
        return Outputs(
            product,
            self.mlm_head(product.title, batch["mlm_positions"], words),
            None if product.image is None else self.mom_head(product.image[:, 1:]),
            second_embedding=second,
        )

    def product(self, batch: Batch, temperature: jax.Array | float) -> Product:
        """The streams and their pooled embedding; `temperature` is not used."""
        del temperature
        text, image = self.streams(batch)
        pooled = [(text, batch["title_content"])]
        if image is not None:
            pooled.append((self.image_map(image), batch["region_mask"]))
        return Product(text, image, mean_position(pooled, self.empty_product), None)
