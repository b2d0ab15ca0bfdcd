"""The image-text interactor: co-attention blocks, as in ViLBERT (Lu et al., 2019)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model.layers import ScanOptions, Stack, TransformerLayer, scan_layers


class CoAttentionBlock(nn.Module):
    """Each stream attends to the other as both were before the block.

    Two streams of text exchange likewise: one of them then has the image's place.
    """

    sizes: settings.Interactor
    text_width: int
    image_width: int
    dropout: float
    dtype: jnp.dtype
    deterministic: bool
    image_axis: str = "image_embed"  # logical name of `image_width`

    @nn.compact
    def __call__(
        self, streams: tuple[jax.Array, jax.Array], text_mask: jax.Array, image_mask: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        """Streams (text [B, T, D], image [B, R, Dv]) -> the same, after one exchange."""
        text, image = streams
        text_layer = TransformerLayer(
            self.text_width,
            self.sizes.width,
            self.sizes.heads,
            self.sizes.text_mlp,
            "embed",
            self.image_axis,
            self.dropout,
            self.dtype,
            self.deterministic,
            name="text",
        )
        image_layer = TransformerLayer(
            self.image_width,
            self.sizes.width,
            self.sizes.heads,
            self.sizes.image_mlp,
            self.image_axis,
            "embed",
            self.dropout,
            self.dtype,
            self.deterministic,
            name="image",
        )
        return (text_layer(text, image, image_mask), image_layer(image, text, text_mask)), None


class Interactor(nn.Module):
    """A stack of blocks in which two streams meet."""

    sizes: settings.Interactor
    text_width: int
    image_width: int
    dropout: float
    dtype: jnp.dtype
    looping: ScanOptions
    deterministic: bool
    image_axis: str = "image_embed"
    block: type[nn.Module] = CoAttentionBlock  # or another of the same fields and arguments

    def setup(self) -> None:
        """The blocks."""
        self.blocks = scan_layers(
            self.block, self.sizes.blocks, self.looping, **self._fields(), name="blocks"
        )

    def __call__(
        self, text: jax.Array, image: jax.Array, text_mask: jax.Array, image_mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Text [B, T, D], image [B, R, Dv] and their masks -> interactive features, same shapes."""
        return self.blocks((text, image), text_mask, image_mask)[0]

    def stack(self) -> Stack:
        """The blocks, for a schedule that has something between them."""
        return Stack.of(self.blocks, self.block, self.looping, **self._fields())

    def _fields(self) -> dict[str, Any]:
        return {
            "sizes": self.sizes,
            "text_width": self.text_width,
            "image_width": self.image_width,
            "dropout": self.dropout,
            "dtype": self.dtype,
            "deterministic": self.deterministic,
            "image_axis": self.image_axis,
        }
