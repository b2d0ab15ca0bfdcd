"""An encoder for each of text and picture, then blocks in which the two streams meet."""

from typing import ClassVar

import flax.linen as nn

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.baselines.baseline import Baseline, Streams
from k3m_jax.model.image_encoder import ImageEmbedding, ImageEncoder
from k3m_jax.model.interactor import CoAttentionBlock, Interactor
from k3m_jax.model.layers import ScanOptions


class TwoStreams(Baseline):
    """ViLBERT and LXMERT, which differ in how regions are embedded and in the block."""

    region_embedding: ClassVar[type[nn.Module]] = ImageEmbedding
    block: ClassVar[type[nn.Module]] = CoAttentionBlock

    def setup(self) -> None:
        """The image's encoder and the interactor beside the shared parts."""
        super().setup()
        model = self.settings.model
        self.image_encoder = ImageEncoder(
            model.image, **self.how, looping=ScanOptions.of(model), embed=self.region_embedding
        )
        self.interactor = Interactor(
            model.interactor,
            model.text.width,
            model.image.width,
            **self.how,
            looping=ScanOptions.of(model),
            block=self.block,
        )

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D] and image [B, R, Dv] after they met."""
        text_mask, image_mask = batch["title_mask"], batch["region_mask"]
        (text,) = self.text_encoder((batch["title_tokens"], text_mask))
        image = self.image_encoder(
            batch["region_inputs"], batch["region_hidden"], batch["region_boxes"], image_mask
        )
        return self.interactor(text, image, text_mask, image_mask)
