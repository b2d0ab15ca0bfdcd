"""A text encoder of MiniLM's size, to start from its weights or, for comparison, from scratch.

Both runs read its vocabulary, --config.data.tokenizer=runs/minilm/weights, and the warm one its
weights too, --config.init_from=runs/minilm/weights (docs/weights.md). Shards as for
`configs/quickstart.py`.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.lengths.knowledge = 48
    config.model.text.update(layers=6, width=384, heads=12, mlp=1536)
    config.optimizer.learning_rate = 3e-4
    config.training.update(
        steps=80, batch=8, log_every=2, eval_every=16, checkpoint_every=80, keep=1
    )
    config.evaluation.update(batch=32, products=64)
    config.mesh.data = 1  # so few rows are one device's
    return variant(config, name)
