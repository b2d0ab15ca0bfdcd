"""A small K3M that learns the embedded catalogue in minutes on two CPU cores.

Shards: python -m launch.build_shards --image_size=96 --patch_size=16 …
"""

import ml_collections

from configs.debug import variant
from k3m_jax.settings import default_config


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = default_config()
    config.lengths.update(title=20, knowledge=48, triples=12, candidate=12)
    config.image.update(front_end="patches", regions=36, patch_size=16)
    config.model.text.update(layers=2, width=128, heads=4, mlp=256)
    config.model.image.update(layers=1, width=128, heads=4, mlp=256)
    config.model.interactor.update(blocks=2, width=128, heads=4, image_mlp=256, text_mlp=256)
    config.model.structure.heads = 4
    config.model.update(positions=64, dropout=0.0, dtype="float32")
    config.objectives.lpm.negative_values = 3
    config.objectives.group = 8
    config.optimizer.learning_rate = 1e-3
    config.training.update(
        steps=400, batch=64, log_every=10, eval_every=100, checkpoint_every=100, keep=2
    )
    config.evaluation.batch = 64
    return variant(config, name)
