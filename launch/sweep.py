"""Runs a grid of experiments: pretrains, fine-tunes and measures whatever is not done yet.

  python -m launch.sweep --grid=configs/grid_catalogue.py --workdir=runs/grid [--workers=2]

Each measurement is a line of results.jsonl in --workdir. The same command goes on where it was
stopped, and skips what has its line there, even where the runs themselves are gone; launch.report
makes tables and figures of the file. Settings of the grid are changed as any others:
--grid.seeds="(0,)", --grid.models.k3m.training.steps=300 (docs/grids.md).

Exit codes: 0 all is measured; 1 some runs failed, and the others are done; 2 a mistake in the
command, reported in one line; 75 stopped by SIGTERM or Ctrl-C: run the same command to go on.
"""

import dataclasses
import pathlib
import sys

import ml_collections

from k3m_jax.settings.schema import PositiveInt, option, required
from k3m_jax.sweeps.grid import Grid
from k3m_jax.sweeps.sweep import sweep
from k3m_jax.training.preemption import EXIT_PREEMPTED
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    grid: ml_collections.ConfigDict = required("a file configs/grid_….py")
    workdir: str = required("local folder of results, shards and runs")
    workers: PositiveInt = option(1, "models trained at a time")


def main(flags: Flags) -> int | None:
    """Runs the grid and reports."""
    outcome = sweep(Grid.parse(flags.grid.to_dict()), pathlib.Path(flags.workdir), flags.workers)
    results = f"{flags.workdir}/results.jsonl"
    print(f"{outcome.finished:,} of {outcome.trials:,} trials are measured: {results}")
    if outcome.stopped:
        print("stopped: run the same command to go on", file=sys.stderr)
        return EXIT_PREEMPTED
    for group, reason in outcome.failed.items():
        print(f"failed: {group}: {reason}", file=sys.stderr)
    return 1 if outcome.failed else None


if __name__ == "__main__":
    cli.run(main)
