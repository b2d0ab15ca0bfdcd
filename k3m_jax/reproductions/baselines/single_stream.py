"""The baselines with one stack of layers: BERT, and VL-BERT over text and regions."""

import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.encoders import ImageEmbedding, regions_of
from k3m_jax.model.layers import KeyMask, embedding_init
from k3m_jax.reproductions.baselines.baseline import Baseline, Streams


class Bert(Baseline):
    """BERT (Devlin et al., 2019): the text encoder and nothing else."""

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D], and no image."""
        (text,) = self.text_encoder((batch["title_tokens"], batch["title_mask"]))
        return text, None


class VlBert(Baseline):
    """VL-BERT (Su et al., 2020): the text encoder's layers over tokens and regions as one row."""

    def setup(self) -> None:
        """Regions as inputs of the text's width."""
        super().setup()
        width = self.settings.model.text.width
        self.region_embedding = ImageEmbedding(width, self.numerics)
        # Text has its own token type, BERT's first; this is the regions'.
        self.region_type = self.param("region_type", embedding_init("norm"), (width,))

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D] and image [B, R, D], the two ends of the row."""
        mask = batch["region_mask"]
        image = self.region_embedding(regions_of(batch), batch["region_boxes"])
        image += self.region_type.astype(image.dtype)
        text = self.text_encoder.embed(batch["title_tokens"])
        mask = KeyMask(jnp.concatenate([batch["title_mask"], mask], 1))
        x, _ = self.text_encoder.layers(jnp.concatenate([text, image], 1), mask)
        return x[:, : text.shape[1]], x[:, text.shape[1] :]
