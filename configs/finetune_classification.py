"""Fine-tuning to predict the category of items; the base of the other tasks' files."""

import ml_collections

from configs.debug import variant
from k3m_jax.settings import default_config


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = default_config()
    config.task.name = "classification"
    # Nothing is masked: the task alone has prediction targets.
    config.objectives.mlm.rate = 0.0
    config.objectives.mom.rate = 0.0
    config.objectives.lpm.update(negative_values=0, negative_items=0)
    config.objectives.group = 2
    config.optimizer.learning_rate = 3e-4
    config.training.update(
        steps=400, batch=32, log_every=10, eval_every=100, checkpoint_every=100, keep=1
    )
    config.evaluation.batch = 64
    return variant(config, name)
