"""The `:debug` variant of every configuration: minutes become seconds."""

import ml_collections

from configs.meshes import fsdp
from k3m_jax.settings import UserError


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Makes the model tiny and the run short, in place; what the data set fixes stays as it is."""
    for stack in (config.model.text, config.model.image):
        stack.update(layers=2, width=32, heads=2, mlp=64)
    config.model.interactor.update(blocks=2, width=32, heads=2, image_mlp=64, text_mlp=64)
    config.model.structure.heads = 2
    config.model.dtype = "float32"
    config.objectives.group = 2
    config.training.update(
        steps=20, batch=16, accumulation=1, log_every=1, eval_every=10, checkpoint_every=5
    )
    config.evaluation.update(batch=16, products=64, stability=32)
    config.data.workers = 0
    if config.mesh.fsdp > 1:  # a pod's: take the devices that there are
        config.mesh.update(fsdp())
    return config


def variant(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """Applies a file's `:name`; raises UserError for another name."""
    if name not in ("", "debug"):
        raise UserError(f"--config: there is no variant {name!r}, only 'debug'")
    return shrink(config) if name else config
