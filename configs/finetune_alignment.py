"""Fine-tuning to decide whether two items are one product: two rows of a batch are a pair."""

import ml_collections

from configs import finetune_classification
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = finetune_classification.get_config()
    config.task.name = "alignment"
    return variant(config, name)
