"""Hugging Face's vision models: their patch tokens or feature maps as a grid of regions."""

import inspect
import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from k3m_jax.pretrained.vision.detector import Detector
from k3m_jax.pretrained.vision.grid import GridBackbone
from k3m_jax.settings import UserError

HEADS = {
    "ForObjectDetection": transformers.AutoModelForObjectDetection,
    "ForImageClassification": transformers.AutoModelForImageClassification,
}


class HuggingFaceGrid(GridBackbone):
    """Of two towers the one that sees; the whole picture is its [CLS], or what it pools itself."""

    named = False  # transformers renames parameters

    def __init__(self, network: Any, processor: Any, model: str, size: int, grid: int):
        if not hasattr(network, "classifier"):
            network = getattr(network, "vision_model", None) or network
        self._base = getattr(network, "vision_model", None) or network.base_model
        if hasattr(getattr(self._base, "pooler", None), "dense"):
            self._base.pooler = None  # ViT's is not read, and where it was not trained it is random
        keys = inspect.signature(self._base.forward).parameters
        if "spatial_shapes" in keys:
            hint = "take one of a fixed resolution, such as google/siglip2-base-patch16-224"
            raise UserError(f"--model: {model} is a NaFlex model: {hint}")
        stretch = "interpolate_pos_encoding"
        self._options = {stretch: True} if stretch in keys else {}
        self._patch = getattr(self._base.config, "patch_size", 1)
        if size % self._patch:
            raise UserError(f"--size: {size} is not a multiple of the model's patch {self._patch}")
        layers = list(getattr(network, "classifier", nn.Identity()).modules())
        self._classifier = next((x for x in reversed(layers) if isinstance(x, nn.Linear)), None)
        super().__init__(network, processor, model, size, grid)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens are patches row by row, after [CLS] and registers, if any."""
        found = self._base(pixels, **self._options)
        hidden, pooled = found.last_hidden_state, found.get("pooler_output")
        if hidden.ndim == 4:
            return hidden, None  # its mean, which is K3M's global region
        side = min(pixels.shape[-1] // self._patch, math.isqrt(hidden.shape[1]))
        others = hidden.shape[1] - side**2
        tokens = hidden[:, others:].transpose(1, 2).unflatten(2, (side, side))
        return tokens, hidden[:, 0] if others else pooled

    def classify(self, cells: Tensor, pooled: Tensor | None) -> Tensor | None:
        """The classifier on each cell, as if it were the picture's mean."""
        if self._classifier is None:
            return None
        if pooled is None and hasattr(self._base, "layernorm"):  # ConvNeXt's, after its mean
            cells = self._base.layernorm(cells)
        if self._classifier.in_features == 2 * cells.shape[-1]:  # DINOv2: [CLS], mean of patches
            means = torch.cat([cells[:, 1:].mean(1, keepdim=True), cells[:, 1:]], 1)
            cells = torch.cat([pooled[:, None].expand_as(means), means], -1)
        return self._classifier(cells)


def load(model: str, size: int, grid: int) -> HuggingFaceGrid | Detector:
    """A model of a local folder or of the hub, by the architecture that it names.

    Raises UserError: it is not there, or not complete.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(model)
        name = (getattr(config, "architectures", None) or [""])[0]
        kind = next((HEADS[head] for head in HEADS if name.endswith(head)), transformers.AutoModel)
        network, info = kind.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
        processor = transformers.AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--model: {model} can't be read as a vision model: {reason}") from error
    if missing := [key for key in info["missing_keys"] if "pooler." not in key]:
        raise UserError(f"--model: {model} has no weights for {min(missing)}")
    if kind is HEADS["ForObjectDetection"]:
        if grid:
            raise UserError(f"--grid: {model} is a detector, which finds boxes of its own")
        return Detector(network, processor, model, size or _size(processor))
    return HuggingFaceGrid(network, processor, model, size or _size(processor), grid)


def _size(processor: Any) -> int:
    """Pixels a side of the picture that a model's own preprocessing makes."""
    cropped = getattr(processor, "do_center_crop", False)
    size = processor.crop_size if cropped else processor.size
    return size.height or size.shortest_edge
