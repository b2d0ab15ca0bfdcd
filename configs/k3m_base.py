"""K3M at the paper's size on a detector's regions: the defaults of `k3m_jax/settings`.

Name the shards: --config.data.sources=FOLDER.
"""

import ml_collections

from configs.debug import variant
from configs.meshes import fsdp
from k3m_jax.settings import default_config


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = default_config()
    config.image.front_end = "regions"
    config.image.regions = 36
    config.training.steps = 100_000
    config.training.batch = 256
    config.evaluation.products = 8192  # of millions held out, every 2,000 steps
    config.mesh.update(fsdp())
    config.model.remat = True
    return variant(config, name)
