"""Runs the run groups of a grid, several at a time, each in a process of its own."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import jax
import tqdm
from absl import logging

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.store.shards import open_shards
from k3m_jax.runs.measure import PRODUCTS, digest
from k3m_jax.settings.schema import UserError
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import Grid, Products, RunGroup, Trial, slug
from k3m_jax.sweeps.run_group import Files, Stopped, run_trials
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.preemption import EXIT_PREEMPTED

POLL_SECONDS = 1.0
LOG = "run_group.log"
MADE_OF = "made_of.json"  # next to the shards of a level of data
SIZES = ("image_size", "patch_size", "folds", "fold")  # the arguments of a build that a level sets


class Outcome(NamedTuple):
    """How a sweep ended."""

    finished: int  # trials measured, in this sweep and earlier ones
    trials: int  # of the grid
    failed: dict[RunGroup, str]  # with the last line of their logs
    stopped: bool  # by a signal


class _Worker(NamedTuple):
    process: BaseProcess
    group: RunGroup
    cores: tuple[int, ...]


def sweep(grid: Grid, workdir: pathlib.Path, workers: int) -> Outcome:
    """Measures the trials that have no result in `workdir`; failed run groups are skipped.

    Shows a progress bar of trials. Each run group writes its output to `run_group.log` in the
    folder of its runs. The cores are divided among the workers, because several small models on
    one core each are faster than one on many. SIGTERM and Ctrl-C make active runs save their state.

    Args:
      grid: the grid.
      workdir: folder of results, shards and runs; created if necessary.
      workers: number of run groups at a time.

    Raises:
      UserError: another sweep is running in the folder, its results belong to another grid, or the
        products can't be built.
    """
    files = Files(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with _exclusive(workdir):
        before = results.finished_trials(files.results, grid)
        groups = {
            group: left
            for group, trials in grid.run_groups().items()
            if (left := [trial for trial in trials if trial not in before])
        }
        for group in groups:
            prepare(grid, files, group)
        total = sum(1 for _ in grid.trials())
        with tqdm.tqdm(total=total, initial=len(before), unit="trial", disable=None) as bar:
            failed, stopped = _run(grid, groups, files, workers, bar)
        finished = len(results.finished_trials(files.results, grid))
    return Outcome(finished, total, failed, stopped)


def _run(
    grid: Grid, groups: dict[RunGroup, list[Trial]], files: Files, workers: int, bar: tqdm.tqdm
) -> tuple[dict[RunGroup, str], bool]:
    """Runs the groups; returns those that failed, and whether a signal stopped the rest."""
    free = _divide_cores(workers)
    waiting, running, failed = list(groups.items()), [], {}
    size, stopping = 0, False  # size of the results file when it was last read
    with _stop_signals() as stop_requested:
        while waiting or running:
            while waiting and free and not stop_requested.is_set():
                (group, trials), cores = waiting.pop(0), free.pop(0)
                arguments = (grid, group, trials, files.workdir, cores)
                process = multiprocessing.get_context("spawn").Process(
                    target=_process, args=arguments
                )
                process.start()
                running.append(_Worker(process, group, cores))
            time.sleep(POLL_SECONDS)
            if files.results.exists() and files.results.stat().st_size != size:
                size = files.results.stat().st_size
                bar.n = len(results.finished_trials(files.results, grid))
            bar.set_postfix_str("; ".join(str(worker.group) for worker in running))
            for worker in [each for each in running if not each.process.is_alive()]:
                running.remove(worker)
                free.append(worker.cores)
                if worker.process.exitcode not in (0, EXIT_PREEMPTED) and not stopping:
                    failed[worker.group] = _last_line(files.runs(worker.group) / LOG)
                    bar.write(f"failed: {worker.group}: {failed[worker.group]}", file=sys.stderr)
            if stop_requested.is_set() and not stopping:
                stopping = True
                waiting.clear()
                for worker in running:
                    worker.process.terminate()
        return failed, stopping


def _process(
    grid: Grid,
    group: RunGroup,
    trials: Sequence[Trial],
    workdir: pathlib.Path,
    cores: Sequence[int],
) -> None:
    """Entry point of a run group's process."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, cores)
    log = Files(workdir).runs(group) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file that it writes
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    try:
        run_trials(grid, group, trials, workdir)
    except Stopped as stopped:
        print(stopped)
        sys.exit(EXIT_PREEMPTED)
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def prepare(grid: Grid, files: Files, group: RunGroup) -> None:
    """Builds a run group's shards unless they exist.

    Raises:
      UserError: the products can't be built, or the existing shards were made of others.
    """
    products, own = grid.data[group.data], files.data(group.data) / "catalogue"
    catalogue = pathlib.Path(products.folder) if products.folder else own
    if products.folder and not (catalogue / PRODUCTS).exists():
        raise UserError(f"data.{group.data}.folder: there is no {catalogue / PRODUCTS}")
    _check_source(files, group.data, products)
    if not products.folder and not catalogue.exists():
        make_catalogue(
            catalogue, products.products, products.seed, products.overlap, products.image_size
        )
    arguments = BuildArguments(
        "jsonl",
        str(catalogue),
        str(files.shards(grid, group)),
        image_size=products.image_size,
        patch_size=products.patch_size,
        folds=products.folds,
        fold=group.seed if products.folds else 0,
    )
    if not arguments.folder.exists():
        build(arguments)
        return
    stored = open_shards(arguments.folder).info.arguments
    wanted = {key: getattr(arguments, key) for key in SIZES}
    _check_same(files, group.data, stored, wanted)


def _check_source(files: Files, name: str, products: Products) -> None:
    """Records what a level's shards are made of; raises UserError if that was something else."""
    wanted = {"folder content": digest(products.folder) if products.folder else ""}
    if not products.folder:
        keys = ("products", "overlap", "seed", "image_size")
        wanted |= {key: getattr(products, key) for key in keys}
    note = files.data(name) / MADE_OF
    if note.exists():
        _check_same(files, name, json.loads(note.read_text()), wanted)
    else:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(wanted) + "\n")


def _check_same(
    files: Files, name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    for key, value in wanted.items():
        if stored.get(key, value) != value:
            raise UserError(
                f"{files.data(name)} was made with {key} {stored[key]!r}, and data.{name} of the "
                f"grid has {value!r}: choose another --workdir, or remove that folder and the runs "
                f"in {files.workdir / 'runs' / slug(name)}"
            )


def _divide_cores(workers: int) -> list[tuple[int, ...]]:
    """The cores of each worker; if there are more workers than cores, all share all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return [tuple(cores[i::workers]) or tuple(cores) for i in range(workers)]


@contextlib.contextmanager
def _exclusive(workdir: pathlib.Path) -> Iterator[None]:
    """Prevents a second sweep in the folder."""
    with (workdir / "sweep.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another sweep is running in {workdir}: wait for it to end") from None
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets."""
    requested, numbers = threading.Event(), (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: requested.set()) for number in numbers]
    try:
        yield requested
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "no output")
