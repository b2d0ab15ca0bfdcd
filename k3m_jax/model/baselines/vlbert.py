"""VL-BERT (Su et al., 2020): text and regions as one sequence through one stack of layers."""

import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.baselines.baseline import Baseline, Streams
from k3m_jax.model.image_encoder import ImageEmbedding, prepend_global_region
from k3m_jax.model.layers import embedding_init


class VlBert(Baseline):
    """The text encoder's layers, over tokens and regions side by side."""

    def setup(self) -> None:
        """Regions as inputs of the text's width, beside the shared parts."""
        super().setup()
        width = self.settings.model.text.width
        self.region_embedding = ImageEmbedding(width, **self.how)
        # Text has its own token type, BERT's first; this is the regions'.
        self.region_type = self.param("region_type", embedding_init("norm"), (width,))

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D] and image [B, R, D], the two ends of the sequence."""
        mask = batch["region_mask"]
        features = prepend_global_region(batch["region_inputs"], batch["region_hidden"], mask)
        image = self.region_embedding(features, batch["region_boxes"])
        image += self.region_type.astype(image.dtype)
        text = self.text_encoder.embedding(batch["title_tokens"])
        x, mask = jnp.concatenate([text, image], 1), jnp.concatenate([batch["title_mask"], mask], 1)
        x, _ = self.text_encoder.layers(x, mask)
        return x[:, : text.shape[1]], x[:, text.shape[1] :]
