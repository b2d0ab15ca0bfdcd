"""One run group of a grid: pretrains, fine-tunes and measures its unfinished trials."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from k3m_jax.compile_check.cost import parameters
from k3m_jax.evaluation.report import Report
from k3m_jax.runs.measure import measure_run
from k3m_jax.runs.training_run import run
from k3m_jax.settings import Corruption, Settings
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import PRETRAINING, Grid, RunGroup, Trial, slug
from k3m_jax.training.checkpoints import load_meta
from k3m_jax.training.flops import training_flops
from k3m_jax.training.progress import METRICS, TIMING, read_metrics


class Stopped(Exception):
    """A run was stopped by a signal, after it had saved its state."""


class Files(NamedTuple):
    """Where the files of a grid are."""

    workdir: pathlib.Path

    @property
    def results(self) -> pathlib.Path:
        """The file of all results."""
        return self.workdir / results.RESULTS

    def data(self, name: str) -> pathlib.Path:
        """Folder with the catalogue and the shards of a level of data."""
        return self.workdir / "data" / slug(name)

    def shards(self, grid: Grid, group: RunGroup) -> pathlib.Path:
        """Shards that a run group trains on and is measured on."""
        folds = grid.data[group.data].folds
        return self.data(group.data) / (f"shards-fold{group.seed}" if folds else "shards")

    def runs(self, group: RunGroup) -> pathlib.Path:
        """Folder of a run group's runs and its log."""
        return self.workdir / "runs" / slug(group.data) / slug(group.model) / f"seed{group.seed}"


def run_trials(grid: Grid, group: RunGroup, trials: Sequence[Trial], workdir: pathlib.Path) -> None:
    """Appends the result of each trial as soon as it is measured.

    Args:
      grid: the grid.
      group: one of its run groups.
      trials: the group's unfinished trials, in the grid's order.
      workdir: of the grid; the shards are there already.

    Raises:
      Stopped: by a signal; another call resumes.
      UserError: settings that do not fit the products.
    """
    files = Files(workdir)
    folder = files.runs(group)
    pretrained = folder / PRETRAINING
    settings = grid.models[group.model]
    shards = (str(files.shards(grid, group)),)
    data = dataclasses.replace(settings.data, sources=shards)
    settings = dataclasses.replace(settings, seed=group.seed, data=data)
    first = Trial(*group, PRETRAINING, "", "")
    _train(settings, pretrained)
    if first in trials:
        results.append(files.results, first, grid.fingerprint(first), _pretrained(pretrained))
    downstream = [trial for trial in trials if trial != first]
    for (task, training), found in itertools.groupby(downstream, lambda t: (t.task, t.training)):
        tuning, of_run = grid.tasks[task], list(found)
        data = dataclasses.replace(tuning.data, sources=shards, train_corruption=_parse(training))
        tuning = dataclasses.replace(tuning, seed=group.seed, init_from=str(pretrained), data=data)
        tuned = folder / slug(*filter(None, (task, training)))
        _train(tuning, tuned)
        start = time.monotonic()  # loading counts towards the first trial
        trivial = results.needs_trivial_baselines(files.results, grid, of_run)
        reports = _measure(tuned, grid.split, of_run, trivial)
        for trial, report in zip(of_run, reports, strict=True):
            seconds, start = time.monotonic() - start, time.monotonic()
            for baseline, content in _contents(report, seconds).items():
                named = trial._replace(model=baseline or trial.model)
                results.append(files.results, named, grid.fingerprint(trial), content)


def _parse(corruption: str) -> Corruption:
    return Corruption.parse(corruption) if corruption else Corruption()


def _train(settings: Settings, folder: pathlib.Path) -> None:
    if not run(settings, epath.Path(folder)):
        raise Stopped(f"stopped by a signal in {folder}")


def _pretrained(folder: pathlib.Path) -> dict[str, Any]:
    """Held-out metrics, size and cost of a pretrained model."""
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


def _measure(
    folder: pathlib.Path, split: str, trials: Sequence[Trial], trivial_baselines: bool
) -> Iterator[Report]:
    """Reports of a fine-tuned run, one for each trial."""
    meta = load_meta(folder)
    return measure_run(
        Settings.from_config(meta.settings),
        meta,
        epath.Path(folder),
        "latest",
        split=split,
        corruptions=[_parse(trial.corruption) for trial in trials],
        trivial_baselines=trivial_baselines,
    )


def _contents(report: Report, seconds: float) -> dict[str, dict[str, Any]]:
    """Results of the trivial baselines by name, and last the model's under ""."""
    common = {name: report.notes[name] for name in ("examples", "products")} | {"seconds": seconds}
    baselines = {
        name: {row.metric: dataclasses.asdict(row.baselines[name]) for row in report.rows}
        for name in report.rows[0].baselines
    }
    model = {row.metric: dataclasses.asdict(row.model) for row in report.rows}
    return {k: {**common, "metrics": metrics} for k, metrics in {**baselines, "": model}.items()}
