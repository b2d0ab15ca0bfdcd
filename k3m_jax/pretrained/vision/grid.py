"""A model's feature map as a grid of regions."""

import abc
import hashlib
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from k3m_jax.modalities.pixels import grid_boxes
from k3m_jax.settings import Backbone, UserError

GRID = 7  # cells a side at most, where no other number is wanted
KEPT_CLASSES = 32  # of each region; all others become 0, which compresses to nothing


class Frozen:
    """What all kinds share: a torch module that only predicts, and how it sees pixels."""

    named: ClassVar[bool] = True  # whether its parameters have the same names in all versions

    def __init__(self, module: nn.Module, scaling: Any):
        """`scaling` has `image_mean` and `image_std` of the channels, and `do_normalize`."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.eval().to(self.device)
        scale = scaling.image_mean, scaling.image_std
        scale = scale if scaling.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        self._scale = [torch.tensor(x, device=self.device)[:, None, None] for x in scale]

    def pixels(self, pictures: np.ndarray) -> Tensor:
        """Pictures uint8 [B, S, S, 3] as the model wants them, float32 [B, 3, S, S]."""
        x = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 255
        return (x - self._scale[0]) / self._scale[1]

    def fingerprint(self) -> str:
        """Of the weights, in whatever file they were."""
        whole, each = hashlib.sha256(), []
        for name, x in sorted(self.module.state_dict().items()):
            data = x.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            whole.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
            whole.update(data)
            if x.is_floating_point():  # what else there is are constants, in some versions
                each.append(hashlib.sha256(data).digest())
        return (whole if self.named else hashlib.sha256(b"".join(sorted(each)))).hexdigest()


class GridBackbone(abc.ABC, Frozen):
    """Cells of a feature map, row by row, and the whole picture if the model pools it its way."""

    def __init__(self, module: nn.Module, scaling: Any, model: str, size: int, grid: int):
        """Looks once, to know the map. Raises UserError for a grid finer than it."""
        super().__init__(module, scaling)
        with torch.inference_mode():
            features, _ = self.features(self.pixels(np.zeros((1, size, size, 3), np.uint8)))
        side = min(features.shape[2:])
        if grid > side:
            cells = f"the map of {model} is {side} x {side} cells of a picture of {size} pixels"
            raise UserError(f"--grid: {grid} cells a side, but {cells}")
        self.identity = Backbone(model, self.fingerprint(), size, grid or min(side, GRID))

    @abc.abstractmethod
    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pixels [B, 3, S, S] -> the map [B, F, h, w], and the pooled picture [B, F] if any."""

    @abc.abstractmethod
    def classify(self, cells: Tensor, pooled: Tensor | None) -> Tensor | None:
        """Cells [B, n, F] and the pooled picture [B, F] -> logits [B, n, C]; None without any."""

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> list[dict[str, np.ndarray]]:
        """As `VisionBackbone` says."""
        grid, size = self.identity.grid, self.identity.size
        features, pooled = self.features(self.pixels(pictures))
        cells = nn.functional.adaptive_avg_pool2d(features, grid).flatten(2).transpose(1, 2)
        boxes = grid_boxes(grid**2) * size
        if pooled is not None:
            cells = torch.cat([pooled[:, None], cells], 1)
            boxes = np.concatenate([np.full((1, 4), (0, 0, size, size), np.float32), boxes])
        logits = self.classify(cells, pooled)
        probs = [None] * len(cells) if logits is None else logits.softmax(-1)
        return [raw_arrays(size, boxes, *each) for each in zip(cells, probs, strict=True)]


def raw_arrays(
    size: int, boxes: np.ndarray, features: Tensor, probs: Tensor | None
) -> dict[str, np.ndarray]:
    """The raw arrays of a picture of size x size pixels: of n regions, [n, F] and [n, C]."""
    found = {"image_w": np.float32(size), "image_h": np.float32(size), "boxes": boxes}
    found["features"] = features.half().cpu().numpy()
    if probs is not None:
        top, ids = probs.topk(min(KEPT_CLASSES, probs.shape[-1]))
        found["cls_prob"] = torch.zeros_like(probs).scatter(-1, ids, top).half().cpu().numpy()
    return found
