"""Runs all lanes of a grid, some at a time, each in a process of its own."""

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

import tqdm
from absl import logging

from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build
from k3m_jax.data.store.shards import open_shards
from k3m_jax.runs.adhoc_datasets import PRODUCTS, digest
from k3m_jax.settings.schema import UserError
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import Grid, Products, RunGroup, Trial, slug
from k3m_jax.sweeps.run_group import Files, Stopped, run_lane
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.preemption import EXIT_PREEMPTED

EVERY = 1.0  # seconds between two looks at what goes on
MADE_OF = "made_of.json"  # beside a level's shards
SIZES = ("image_size", "patch_size", "folds", "fold")  # what a level decides of a build


class Outcome(NamedTuple):
    """What came of a sweep."""

    done: int  # cells measured, in this sweep and before it
    cells: int  # of the grid
    failed: dict[RunGroup, str]  # and the last line of what it told
    stopped: bool  # it was told to


class _Running(NamedTuple):
    process: BaseProcess
    lane: RunGroup
    cores: tuple[int, ...]


def sweep(grid: Grid, workdir: pathlib.Path, workers: int) -> Outcome:
    """Measures the cells that `workdir` has no result of; a lane that fails holds up no other.

    Shows a progress bar of cells. What each lane tells lies in `lane.log` beside its runs. The
    processors are shared out among the workers: small models use one core each better than many.
    SIGTERM and Ctrl-C make the runs under way save their state.

    Args:
      grid: the grid.
      workdir: folder of results, shards and runs; made if need be.
      workers: lanes at a time.

    Raises:
      UserError: another sweep is at work in the folder, its results are of another grid, or
        products can't be built.
    """
    files = Files(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        before = results.done(files.results, grid)
        lanes = {
            lane: left
            for lane, cells in grid.lanes().items()
            if (left := [cell for cell in cells if cell not in before])
        }
        for lane in lanes:
            prepare(grid, files, lane)
        total = sum(1 for _ in grid.cells())
        with tqdm.tqdm(total=total, initial=len(before), unit="cell", disable=None) as bar:
            failed, stopped = _run(grid, lanes, files, workers, bar)
        done = len(results.done(files.results, grid))
    return Outcome(done, total, failed, stopped)


def _run(
    grid: Grid, lanes: dict[RunGroup, list[Trial]], files: Files, workers: int, bar: tqdm.tqdm
) -> tuple[dict[RunGroup, str], bool]:
    """Runs the lanes; those that failed, and whether the rest was left."""
    free = _share_of_cores(workers)
    waiting, running, failed = list(lanes.items()), [], {}
    size, told = 0, False  # of the results, when they were last read; whether lanes were to stop
    with _stop_asked() as asked:
        while waiting or running:
            while waiting and free and not asked.is_set():
                (lane, cells), cores = waiting.pop(0), free.pop(0)
                arguments = (grid, lane, cells, files.workdir, cores)
                process = multiprocessing.get_context("spawn").Process(
                    target=_process, args=arguments
                )
                process.start()
                running.append(_Running(process, lane, cores))
            time.sleep(EVERY)
            if files.results.exists() and files.results.stat().st_size != size:
                size = files.results.stat().st_size
                bar.n = len(results.done(files.results, grid))
            bar.set_postfix_str("; ".join(str(each.lane) for each in running))
            for each in [each for each in running if not each.process.is_alive()]:
                running.remove(each)
                free.append(each.cores)
                if each.process.exitcode not in (0, EXIT_PREEMPTED) and not told:
                    failed[each.lane] = _last_line(files.runs(each.lane) / "lane.log")
                    bar.write(f"failed: {each.lane}: {failed[each.lane]}", file=sys.stderr)
            if asked.is_set() and not told:
                told = True
                waiting.clear()
                for each in running:
                    each.process.terminate()
        return failed, told


def _process(
    grid: Grid,
    lane: RunGroup,
    cells: Sequence[Trial],
    workdir: pathlib.Path,
    cores: Sequence[int],
) -> None:
    """A lane in its own process."""
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, cores)
    log = Files(workdir).runs(lane) / "lane.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    logging.set_verbosity(logging.WARNING)  # of Orbax, which tells of each file
    try:
        run_lane(grid, lane, cells, workdir)
    except Stopped as told:
        print(told)
        sys.exit(EXIT_PREEMPTED)
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def prepare(grid: Grid, files: Files, lane: RunGroup) -> None:
    """Makes a lane's shards, where they are not there yet.

    Raises:
      UserError: products can't be built, or what lies there was made of others.
    """
    products, own = grid.data[lane.data], files.data(lane.data) / "catalogue"
    catalogue = pathlib.Path(products.folder) if products.folder else own
    if products.folder and not (catalogue / PRODUCTS).exists():
        raise UserError(f"data.{lane.data}.folder: there is no {catalogue / PRODUCTS}")
    _check_source(files, lane.data, products)
    if not products.folder and not catalogue.exists():
        make_catalogue(
            catalogue, products.products, products.seed, products.overlap, products.image_size
        )
    arguments = BuildArguments(
        "jsonl",
        str(catalogue),
        str(files.shards(grid, lane)),
        image_size=products.image_size,
        patch_size=products.patch_size,
        folds=products.folds,
        fold=lane.seed if products.folds else 0,
    )
    if not arguments.folder.exists():
        build(arguments)
        return
    stored = open_shards(arguments.folder).info.arguments
    wanted = {key: getattr(arguments, key) for key in SIZES}
    _check_same(files, lane.data, stored, wanted)


def _check_source(files: Files, name: str, products: Products) -> None:
    """Notes what a level's shards are made of; raises UserError where it was something else.

    A folder that was begun before there were such notes is taken as it is.
    """
    wanted = {"a folder of content": digest(products.folder) if products.folder else ""}
    if not products.folder:
        wanted |= {key: getattr(products, key) for key in ("products", "overlap", "seed")}
        wanted["image_size"] = products.image_size
    note = files.data(name) / MADE_OF
    if note.exists():
        _check_same(files, name, json.loads(note.read_text()), wanted)
    elif not files.data(name).exists():
        note.parent.mkdir(parents=True)
        note.write_text(json.dumps(wanted) + "\n")


def _check_same(
    files: Files, name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    for key, value in wanted.items():
        if stored.get(key, value) != value:
            raise UserError(
                f"{files.data(name)} was made with {key} {stored[key]!r}, and data.{name} of the "
                f"grid has {value!r}: take another --workdir, or remove that folder and the runs "
                f"in {files.workdir / 'runs' / slug(name)}"
            )


def _share_of_cores(workers: int) -> list[tuple[int, ...]]:
    """Whose processors are whose; with more workers than processors they share them."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return [tuple(cores[i::workers]) or tuple(cores) for i in range(workers)]


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second sweep out of the folder."""
    with (workdir / "sweep.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another sweep is at work in {workdir}: wait for its end") from None
        yield


@contextlib.contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """Set by SIGTERM or Ctrl-C."""
    asked, numbers = threading.Event(), (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: asked.set()) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it told nothing")
