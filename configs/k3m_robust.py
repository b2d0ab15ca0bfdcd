"""The vector that stays: K3M changed so that a missing or wrong modality moves it little.

Ours, not the paper's: docs/robustness.md says what each change is for.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.objectives.extra = ("view",)
    config.objectives.view.same_product = 0.2
    config.objectives.group = 8
    config.data.siblings = True
    config.model.fusion.mode = "mean"
    config.model.pooling = "modalities"
    config.model.structure.scaled = True
    return variant(config, name)
