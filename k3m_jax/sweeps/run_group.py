"""A lane of a grid: pretrains, fine-tunes and measures whatever of it is not done."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.model.task_network import network_of
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs import fine_tuning
from k3m_jax.runs.measure import open_run_data
from k3m_jax.runs.training_run import run
from k3m_jax.settings import Corruption, Settings
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import PRETRAINING, Grid, RunGroup, Trial, slug
from k3m_jax.training.checkpoints import load_meta, load_params
from k3m_jax.training.cost import parameters
from k3m_jax.training.flops import training_flops
from k3m_jax.training.metric_writer import METRICS, TIMING, read_metrics


class Stopped(Exception):
    """A run was told to stop; its state is saved."""


class Files(NamedTuple):
    """Where the files of a grid are."""

    workdir: pathlib.Path

    @property
    def results(self) -> pathlib.Path:
        """The file of all results."""
        return self.workdir / results.RESULTS

    def data(self, name: str) -> pathlib.Path:
        """Of a level of data: the folder of its catalogue and its shards."""
        return self.workdir / "data" / slug(name)

    def shards(self, grid: Grid, lane: RunGroup) -> pathlib.Path:
        """What a lane learns from, and is measured on."""
        folds = grid.data[lane.data].folds
        return self.data(lane.data) / (f"shards-fold{lane.seed}" if folds else "shards")

    def runs(self, lane: RunGroup) -> pathlib.Path:
        """The folder of a lane's runs."""
        return self.workdir / "runs" / slug(lane.data) / slug(lane.model) / f"seed{lane.seed}"


def run_lane(grid: Grid, lane: RunGroup, cells: Sequence[Trial], workdir: pathlib.Path) -> None:
    """Adds the results of the cells, which are the lane's, as they come.

    Args:
      grid: the grid.
      lane: one of its lanes.
      cells: those that are not done, in the grid's order.
      workdir: of the grid; the shards lie there.

    Raises:
      Stopped: the process was told to; run it again to go on.
      UserError: settings that do not fit the products.
    """
    files = Files(workdir)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    folder = files.runs(lane)
    pretrained = folder / PRETRAINING
    settings = grid.models[lane.model]
    shards = (str(files.shards(grid, lane)),)
    data = dataclasses.replace(settings.data, sources=shards)
    settings = dataclasses.replace(settings, seed=lane.seed, data=data)
    own = Trial(*lane, PRETRAINING, "", "")
    _train(settings, pretrained)
    if own in cells:
        results.add(files.results, own, grid.fingerprint(own), _pretrained(pretrained))
    asked = [cell for cell in cells if cell != own]
    for (task, training), found in itertools.groupby(
        asked, lambda cell: (cell.task, cell.training)
    ):
        tuning, group = grid.tasks[task], list(found)
        corrupt = Corruption.parse(training) if training else Corruption()
        data = dataclasses.replace(tuning.data, sources=shards, train_corruption=corrupt)
        tuning = dataclasses.replace(tuning, seed=lane.seed, init_from=str(pretrained), data=data)
        tuned = folder / slug(*filter(None, (task, training)))
        _train(tuning, tuned)
        begun = time.monotonic()  # before the loading, which the first cell's time has
        floors = results.lacks_floors(files.results, grid, group)
        reports = _measured(tuned, grid.split, group, floors)
        for cell, report in zip(group, reports, strict=True):
            seconds, begun = time.monotonic() - begun, time.monotonic()
            for called, content in _contents(report, seconds).items():
                named = cell._replace(model=called or cell.model)
                results.add(files.results, named, grid.fingerprint(cell), content)


def _train(settings: Settings, folder: pathlib.Path) -> None:
    if not run(settings, epath.Path(folder)):
        raise Stopped(f"told to stop in {folder}")


def _pretrained(folder: pathlib.Path) -> dict[str, Any]:
    """What is told of a pretrained model: held-out metrics, size, cost."""
    settings = Settings.from_config(load_meta(folder).settings)
    held_out = [x for x in read_metrics(epath.Path(folder) / METRICS) if "valid/loss" in x][-1]
    training, pace = settings.training, read_metrics(epath.Path(folder) / TIMING)
    steps = [line["step"] for line in pace]
    items = [training.batch * (b - a) for a, b in itertools.pairwise([0, *steps])]
    return {
        "metrics": {
            name.removeprefix("valid/"): {"value": value, "interval": None}
            for name, value in held_out.items()
            if name.startswith("valid/")
        },
        "parameters": parameters(settings),
        "flops": training_flops(settings) * training.batch * training.steps,
        "seconds": sum(n / x["timing/items_per_second"] for n, x in zip(items, pace, strict=True)),
    }


def _measured(
    folder: pathlib.Path, split: str, cells: Sequence[Trial], floors: bool
) -> Iterator[TaskReport]:
    """A fine-tuned run in the settings of the cells."""
    meta = load_meta(folder)
    settings = Settings.from_config(meta.settings)
    inputs = open_run_data(settings.data, meta, epath.Path(folder))
    mesh, network = make_mesh(settings.mesh), network_of(inputs.resolve(settings))
    params, step = load_params(folder, "latest", network, mesh)
    corruptions = [Corruption.parse(c.corruption) if c.corruption else Corruption() for c in cells]
    return fine_tuning.measure(
        network, mesh, inputs, params, step, split, corruptions, floors=floors
    )


def _contents(report: TaskReport, seconds: float) -> dict[str, dict[str, Any]]:
    """Of a report the result of the floors by their names, and last of the model by ""."""
    every = {"examples": report.examples, "products": report.products, "seconds": seconds}
    floors = {
        name: {
            **every,
            "metrics": {row.metric: dataclasses.asdict(row.floors[name]) for row in report.rows},
        }
        for name in report.rows[0].floors
    }
    model = {row.metric: dataclasses.asdict(row.model) for row in report.rows}
    return {**floors, "": {**every, "metrics": model}}
