"""The authors' public code, to the digit: its wiring, sizes, lengths and objectives.

Name the shards: --config.data.sources=FOLDER. docs/fidelity.md compares it with the paper's model.
The false product of its structure objective is the next one of a group; the release's group is the
whole batch, which needs one device.
"""

import ml_collections

from configs import k3m_base
from configs.debug import variant


def get_config(name: str = "") -> ml_collections.ConfigDict:
    config = k3m_base.get_config()
    config.model.update(preset="release", dtype="float32")
    config.model.fusion.update(temperature_start=1.0, temperature_end=1.0)
    config.model.structure.update(residual="identity", combine="concat")
    config.lengths.update(title=36, knowledge=48, triples=10)
    config.training.batch = 256
    config.objectives.group = 32
    variant(config, name)
    config.model.structure.heads = 1
    # A layer of each stream after each block; the text streams run before what is left over.
    text, image, inter = config.model.text, config.model.image, config.model.interactor
    inter.text_layers = tuple(range(text.layers - inter.blocks, text.layers))
    inter.image_layers = tuple(range(image.layers - inter.blocks, image.layers))
    return config
