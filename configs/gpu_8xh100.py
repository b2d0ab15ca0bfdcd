"""K3M at the paper's size on one host of eight H100: 128 items per GPU.

Name the shards: --config.data.sources=FOLDER. What it costs: docs/scaling.md.
"""

import ml_collections

from configs import k3m_base
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = k3m_base.get_config()
    config.training.batch = 1024
    config.evaluation.batch = 1024
    config.model.remat = False
    config.model.unroll = True
    config.data.workers = 32  # of one process for all eight; 4 where each GPU has its own
    return variant(config, name)
