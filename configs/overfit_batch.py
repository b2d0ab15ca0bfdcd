"""Memorises one batch: every loss must come near 0, or the model or its losses are broken.

Shards as for `configs/quickstart.py`.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.training.update(one_batch=True, steps=200, batch=16, log_every=10, eval_every=0)
    config.training.checkpoint_every = 200
    config.objectives.group = 2
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.0)
    config.evaluation.products = 64
    return variant(config, name)
