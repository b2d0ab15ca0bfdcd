"""A run from its settings to its last step: where all its parts come together."""

import contextlib

from etils import epath

from k3m_jax.data.input.pipeline import open_inputs, train_batches
from k3m_jax.model.task_network import network_of
from k3m_jax.parallel.mesh import make_mesh, process_blocks
from k3m_jax.runs.fine_tuning import evaluator_of, with_pretrained_settings
from k3m_jax.settings import Settings
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.loop import train
from k3m_jax.training.trainer import Trainer


def run(settings: Settings, workdir: epath.Path) -> bool:
    """Trains, or goes on with what `workdir` holds; False where it was told to stop before.

    Raises:
      UserError: data that can't be opened or do not fit the settings, or what `loop.train` raises.
    """
    if settings.task.downstream:
        settings = with_pretrained_settings(settings)
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    mesh, network = make_mesh(settings.mesh), network_of(settings)
    blocks, shards = process_blocks(mesh)
    meta = Meta.of(
        settings,
        [each.info.fingerprint for each in inputs.shard_sets],
        inputs.tokenizer.fingerprint,
    )
    checkpoints = Checkpoints(workdir, meta, settings.training.keep)
    with contextlib.closing(checkpoints):
        return train(
            Trainer(network, mesh),
            checkpoints,
            lambda step: train_batches(
                settings, *inputs, start_step=step, blocks=blocks, shards=shards
            ),
            evaluator_of(network, mesh, inputs),
            workdir,
            inputs.tokenizer,
        )
