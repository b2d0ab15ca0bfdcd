"""K3M at the paper's size on a slice of 128 TPU v5p (4x4x8): 64 items per chip.

Name the shards: --config.data.sources=FOLDER. What it costs: docs/scaling.md.
"""

import ml_collections

from configs import k3m_base
from configs.debug import variant
from configs.meshes import fsdp


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = k3m_base.get_config()
    config.training.update(batch=8192, steps=50_000)
    config.evaluation.batch = 8192
    # The long side of the torus is one ring. A wider axis would leave parts of layers smaller than
    # a tile of a TPU's memory.
    config.mesh.update(fsdp(8))
    config.model.remat = False
    config.data.workers = 20  # of a host of four chips
    return variant(config, name)
