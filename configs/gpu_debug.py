"""One GPU host, for finding a fault: deterministic kernels, NaN checks, no worker processes.

It leaves half of the GPU's memory to others. For one step under a debugger, operation by operation:
--config.debug.disable_jit=true --config.training.steps=1 (docs/gpu.md). Shards as for
`configs/quickstart.py`.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.debug.update(nans=True, deterministic=True, memory_fraction=0.5)
    config.data.workers = 0
    config.mesh.update(data=1, fsdp=1, tensor=1)
    config.training.update(steps=20, log_every=1, eval_every=0, checkpoint_every=20)
    config.evaluation.products = 64
    return variant(config, name)
