"""K3M at the paper's size on a slice of 256 TPU v5e (16x16): 32 items per chip.

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
    # One ring of the torus for each axis. Over all 256 chips a chip's part of a layer would be
    # three rows, less than a tile of a TPU's memory, and putting layers together the slower for it.
    config.mesh.update(fsdp(16))
    config.model.remat = False
    config.data.workers = 8  # of a host of four chips
    return variant(config, name)
