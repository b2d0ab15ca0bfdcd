"""A run from its settings to its last step: where all its parts come together."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from k3m_jax.data.input.batch import Batch, BatchLayout
from k3m_jax.data.input.pack_size import with_pack_size
from k3m_jax.data.input.pipeline import HostRows, open_inputs, train_batches
from k3m_jax.data.store import disk, lock
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.parallel import distributed
from k3m_jax.parallel.agreement import AgreedRows
from k3m_jax.parallel.mesh import data_shards, make_mesh
from k3m_jax.parallel.placement import process_blocks
from k3m_jax.runs.task_evaluation import TaskEvaluator
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import FOLDER, Checkpoints, Meta, load_meta
from k3m_jax.training.loop import train
from k3m_jax.training.step import State
from k3m_jax.training.task_network import network_of
from k3m_jax.training.trainer import Trainer

CONFIG = "config.json"  # the run's resolved settings, to read
LOCK = "run.lock"  # while a run writes to its folder


def run(settings: Settings, workdir: epath.Path) -> bool:
    """Trains, or resumes what `workdir` holds; False where it was stopped before the last step.

    Raises UserError for data that can't be opened or do not fit, and as `loop.train`.
    """
    if settings.task.downstream:
        settings = with_pretrained_settings(settings)
    inputs = open_inputs(settings.data)
    mesh = make_mesh(settings.mesh)
    settings, texts = with_pack_size(inputs.resolve(settings), inputs, data_shards(mesh))
    network, packing = network_of(settings), BatchLayout.of(settings).packing
    rows = HostRows(*process_blocks(mesh))
    data = [shards.info.fingerprint for shards in inputs.shard_sets]
    meta = Meta.of(settings, data, inputs.tokenizer.fingerprint)

    def batches_from(step: int) -> Iterator[Batch]:
        if distributed.is_lead_process():  # now that a resumed run accepted its settings
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / CONFIG).write_text(f"{settings.to_json()}\n")
            print(texts, flush=True)
        batches = train_batches(settings, inputs, start_step=step, rows=rows)
        several = jax.process_count() > 1 and packing
        return AgreedRows(batches, packing, mesh) if several else batches

    trainer = Trainer(network, mesh)
    if settings.task.downstream:
        evaluate = TaskEvaluator(network, mesh, inputs)
    else:
        evaluate = Evaluator(network, mesh, inputs)
        evaluate.check()
    keep = settings.training.keep, settings.training.keep_every
    with (
        _only_writer(workdir, trainer.abstract_state),
        disk.run_in(workdir),
        contextlib.closing(Checkpoints(workdir, meta, *keep)) as checkpoints,
    ):
        return train(trainer, checkpoints, batches_from, evaluate, workdir, inputs.tokenizer)


@contextlib.contextmanager
def _only_writer(workdir: epath.Path, state: State) -> Iterator[None]:
    """While the run has its folder to itself, with room for a checkpoint of `state`.

    Raises UserError, in all processes, if it has not.
    """
    with contextlib.ExitStack() as stack:
        error = None
        if distributed.is_lead_process():
            try:
                stack.enter_context(lock.hold(workdir / LOCK, "--workdir"))
                size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
                disk.check_space(workdir, size, "a checkpoint")
            except UserError as found:
                error = found
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(bool(error))):
            error = error or UserError(f"--workdir: {workdir} is not free, as process 0 says")
        if error:
            raise error
        yield


def with_pretrained_settings(settings: Settings) -> Settings:
    """A fine-tuning run's settings, with those of the run that `init_from` names, if it does.

    The model, the lengths and the picture are that run's, or its weights would not fit; so are the
    products and the vocabulary, unless others are named. Raises UserError where the result
    contradicts itself, or the folder does not exist.
    """
    folder = settings.init_from
    if not folder or not (epath.Path(folder) / FOLDER).exists():
        if folder and not settings.data.sources and not epath.Path(folder).exists():
            raise UserError(f"init_from: there is no {folder}, and data.sources names no products")
        return settings
    run = Settings.from_config(load_meta(folder).settings)
    data, objectives = settings.data, settings.objectives
    # What MOM predicts is part of the model's shape.
    mom = dataclasses.replace(objectives.mom, variant=run.objectives.mom.variant)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(run.model, vocabulary=0, dropout=settings.model.dropout),
        lengths=run.lengths,
        image=dataclasses.replace(run.image, classes=0),
        objectives=dataclasses.replace(objectives, mom=mom),
        data=dataclasses.replace(
            data,
            sources=data.sources or run.data.sources,
            tokenizer=data.tokenizer or run.data.tokenizer,
        ),
    )
    return settings.validate()
