"""Detectors of the DETR family: boxes, the features of their queries, and class probabilities."""

from typing import Any

import numpy as np
import torch

from k3m_jax.data.catalog.region_features import MAX_REGIONS
from k3m_jax.pretrained.vision.grid import Frozen, raw_arrays
from k3m_jax.settings import Backbone

FAINT = 1e-3  # a box whose most probable class is less probable is no region


class Detector(Frozen):
    """Queries by the probability of their most probable class, in the detector's order."""

    named = False  # transformers renames parameters

    def __init__(self, network: Any, processor: Any, model: str, size: int):
        super().__init__(network, processor)
        self.identity = Backbone(model, self.fingerprint(), size, 0)

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> list[dict[str, np.ndarray]]:
        """As `VisionBackbone` says."""
        found, size = self.module(self.pixels(pictures)), self.identity.size
        logits, labels = found.logits, self.module.config.num_labels
        # One class more than labels is "no object"; else each class is a yes or no of its own.
        exclusive = logits.shape[-1] > labels
        probs = logits.softmax(-1)[..., :labels] if exclusive else logits.sigmoid()
        centre, extent = found.pred_boxes.chunk(2, -1)
        boxes = torch.cat([centre - extent / 2, centre + extent / 2], -1).clamp(0, 1) * size
        features = found.last_hidden_state[:, -logits.shape[1] :]  # after YOLOS' patches
        best = probs.amax(-1)
        result = []
        for i, confidence in enumerate(best):
            kept = confidence.topk(min(MAX_REGIONS, len(confidence))).indices.sort().values
            kept = kept[confidence[kept] >= FAINT]
            corners = boxes[i, kept].cpu().numpy()
            result.append(raw_arrays(size, corners, features[i, kept], probs[i, kept]))
        return result
