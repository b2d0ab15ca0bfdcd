"""Fine-tuning to answer which value of a property an item has: questions, and completion."""

import ml_collections

from configs import finetune_classification
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = finetune_classification.get_config()
    config.task.name = "questions"
    config.objectives.lpm.negative_values = 15  # false candidates besides the true one
    return variant(config, name)
