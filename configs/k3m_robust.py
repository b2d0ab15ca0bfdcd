"""The vector that stays: K3M changed so that a missing or wrong modality moves it little.

Ours, not the paper's (docs/stability.md). Regions: python -m launch.extract_regions
--model=efficientnet_lite0 --size=128 --grid=4 …; `./launch/robust.sh FOLDER` does it all.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.image.update(front_end="regions", regions=16, feature_dim=1280)
    # Each item is seen twice, and its two vectors are held together, away from other products'.
    config.objectives.extra = ("view",)
    config.objectives.view.same_product = 0.2
    config.data.siblings = True
    config.objectives.group = 8  # whose titles and pictures are each other's wrong ones
    # Each modality weighs the same in c, and what is absent has a vector of its own.
    config.model.pooling = "modalities"
    config.model.fusion.mode = "mean"
    config.model.structure.scaled = True
    config.training.update(steps=4800, batch=64, eval_every=1200, checkpoint_every=600)
    return variant(config, name)
