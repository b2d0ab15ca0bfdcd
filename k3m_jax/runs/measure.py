"""Any run, pretrained or fine-tuned, on products held out."""

import dataclasses
import pathlib
from collections.abc import Sequence

from etils import epath

from k3m_jax.data.input.pipeline import Inputs, open_inputs
from k3m_jax.data.store.shards import open_shards
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.evaluator import make_evaluator
from k3m_jax.evaluation.report import ExternalDataInfo, Report
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.model.network import Network
from k3m_jax.model.task_network import network_of, split_params
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs import fine_tuning
from k3m_jax.runs.adhoc_datasets import open_sources
from k3m_jax.settings import Data, Settings, Task, UserError
from k3m_jax.training.checkpoints import Meta, Which, load_params


def measure_run(
    settings: Settings,
    meta: Meta,
    workdir: epath.Path,
    which: Which,
    sources: Sequence[str] = (),
) -> Report | TaskReport:
    """The table of a checkpoint on `data.valid_split`, corrupt as `data.valid_corruption` says.

    Args:
      settings: of the run, with what is to be otherwise.
      meta: of the run.
      workdir: of the run.
      which: checkpoint.
      sources: to measure on, shards or folders of products as they come; () are the run's own. A
        fine-tuned run learns its floors and its threshold from its own, a pretrained one from
        these.

    Raises:
      UserError: something that can't be opened, another vocabulary, or a split that there is not.
    """
    if settings.task.downstream:
        return _fine_tuned(settings, meta, workdir, which, sources)
    if sources:
        settings = dataclasses.replace(settings, data=_on(settings.data, sources, workdir))
    inputs = open_run_data(settings.data, meta, workdir)
    mesh, network = make_mesh(settings.mesh), network_of(inputs.resolve(settings))
    params, step = load_params(workdir, which, network, mesh)
    measured = make_evaluator(network, mesh, inputs).measure(params)
    report = Report.of(measured, step, settings.data)
    return dataclasses.replace(report, elsewhere=ExternalDataInfo.of(sources, inputs.shard_sets))


def relocate_data(data: Data, meta: Meta, trained_on: Sequence[str], tokenizer: str) -> Data:
    """A run's data, where its shards or its tokenizer lie elsewhere than when it learned.

    Args:
      data: of the run.
      meta: of the run.
      trained_on: where each of its data sets lies now; () where it was.
      tokenizer: where that lies now; "" where it was.

    Raises:
      UserError: the items there are not those that the run has learned from. (Its pairs are not
        told from others: a run keeps no digest of them.)
    """
    if trained_on:
        found = [open_shards(folder).info.fingerprint for folder in trained_on]
        if found != list(meta.data):
            raise UserError(
                f"--trained_on={','.join(trained_on)}: the run has learned from other data "
                "sets, or from these in another order"
            )
    return dataclasses.replace(
        data, sources=tuple(trained_on) or data.sources, tokenizer=tokenizer or data.tokenizer
    )


def open_run_data(data: Data, meta: Meta, workdir: epath.Path) -> Inputs:
    """A run's data; raises UserError where they are gone, or the vocabulary is not the run's."""
    _check_there(data, workdir)
    inputs = open_inputs(data)
    if inputs.tokenizer.fingerprint != meta.vocabulary:
        raise UserError(f"--tokenizer: another vocabulary than that of the run in {workdir}")
    return inputs


def embedder_of(
    settings: Settings, inputs: Inputs, workdir: epath.Path, which: Which
) -> tuple[Settings, Embedder, int]:
    """What embeds by the parameters of a checkpoint, of a fine-tuned run those below its head.

    Args:
      settings: of the run.
      inputs: its data.
      workdir: of the run.
      which: checkpoint.

    Returns:
      The settings resolved, with no task; the embedder; the checkpoint's step.
    """
    mesh, settings = make_mesh(settings.mesh), inputs.resolve(settings)
    params, step = load_params(workdir, which, network_of(settings), mesh)
    if settings.task.downstream:
        params, _ = split_params(params)
    settings = dataclasses.replace(settings, task=Task())
    return settings, Embedder(Network(settings), mesh, inputs.tokenizer, params), step


def _fine_tuned(
    settings: Settings, meta: Meta, workdir: epath.Path, which: Which, sources: Sequence[str]
) -> TaskReport:
    run, data = Settings.from_config(meta.settings), settings.data
    own = dataclasses.replace(data, valid_split=run.data.valid_split)
    settings = dataclasses.replace(settings, data=own)
    inputs = open_run_data(own, meta, workdir)
    held_out = open_sources(sources, inputs.shard_sets[0], workdir)
    mesh, network = make_mesh(settings.mesh), network_of(inputs.resolve(settings))
    params, step = load_params(workdir, which, network, mesh)
    corrupt = (data.valid_corruption,)
    (report,) = fine_tuning.measure(
        network, mesh, inputs, params, step, data.valid_split, corrupt, held_out
    )
    return dataclasses.replace(report, elsewhere=ExternalDataInfo.of(sources, held_out))


def _check_there(data: Data, workdir: epath.Path) -> None:
    for source in data.sources:
        try:
            open_shards(source)
        except UserError as error:
            raise UserError(
                f"{error} (seen from {pathlib.Path.cwd()}). The run in {workdir} has learned from "
                "it, and is measured beside it: --trained_on of launch.evaluate and launch.probe "
                "says where it is now"
            ) from error


def _on(data: Data, sources: Sequence[str], workdir: epath.Path) -> Data:
    """The run's data on other sources, which bring their own tokenizer if they were built."""
    _check_there(data, workdir)
    own = open_shards(data.sources[0])
    found = open_sources(sources, own, workdir)
    if not any(data.train_split in shards.info.products for shards in found):
        raise UserError(
            f"--sources={','.join(sources)}: no items of a split {data.train_split!r}, which a "
            "pretrained run's floors are counted of; a fine-tuned run or launch.probe needs none"
        )
    tokenizer = data.tokenizer
    if not tokenizer and found[0].tokenizer_folder is None and own.tokenizer_folder:
        tokenizer = str(own.tokenizer_folder)
    folders = tuple(str(shards.folder) for shards in found)
    return dataclasses.replace(data, sources=folders, weights=(), tokenizer=tokenizer)
