"""A small K3M that learns the embedded catalogue in minutes on two CPU cores.

Shards: python -m launch.build_shards --image_size=96 --patch_size=16 …
"""

import ml_collections

from configs.debug import variant
from k3m_jax.settings import default_config


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = default_config()
    config.lengths.update(title=26, knowledge=36, triples=16, candidate=8)
    config.image.update(front_end="patches", regions=36, patch_size=16)
    # In minutes on a CPU, many steps of a narrow model learn more than few of a wide one.
    config.model.text.update(layers=2, width=64, heads=4, mlp=128)
    config.model.image.update(layers=1, width=64, heads=4, mlp=128)
    config.model.interactor.update(blocks=2, width=64, heads=4, image_mlp=128, text_mlp=128)
    config.model.structure.heads = 4
    config.model.update(positions=64, dropout=0.0, dtype="float32")
    # More of each title is predicted than the paper's 15 %: a run this short has few targets.
    config.objectives.mlm.rate = 0.3
    config.objectives.lpm.negative_values = 3
    config.objectives.group = 4
    config.optimizer.learning_rate = 3e-3
    config.training.update(
        steps=900, batch=32, log_every=10, eval_every=300, checkpoint_every=300, keep=2
    )
    config.evaluation.batch = 64
    return variant(config, name)
