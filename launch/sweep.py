"""Runs a grid of experiments: pretrains, fine-tunes and measures whatever is not done yet.

  python -m launch.sweep --grid=configs/grid_catalogue.py --workdir=runs/grid [--workers=2]

Each measurement is a line of results.jsonl in --workdir. The same command goes on where it was
stopped, and skips what has its line there, even where the runs themselves are gone; launch.report
makes tables and figures of the file. Settings of the grid can be changed as any others:
--grid.seeds="(0,)", --grid.models.k3m.training.steps=300. docs/grids.md tells more.

Exit codes: 0 all is measured; 1 some runs failed, and the others are done; 2 a mistake in the
command, told in one line; 75 told to stop (SIGTERM or Ctrl-C): run the same command to go on.
"""

import pathlib
import sys

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from k3m_jax.settings import UserError
from k3m_jax.sweeps.grid import Grid
from k3m_jax.sweeps.sweep import sweep
from k3m_jax.training.preemption import EXIT_PREEMPTED
from launch import cli

GRID = config_flags.DEFINE_config_file("grid", help_string="a file configs/grid_….py")
WORKDIR = flags.DEFINE_string("workdir", None, "local folder of results, shards and runs")
WORKERS = flags.DEFINE_integer("workers", 1, "models trained at a time", lower_bound=1)
flags.mark_flags_as_required(["grid", "workdir"])


def main(argv: list[str]) -> int | None:
    """Runs the grid and tells what came of it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if not isinstance(GRID.value, ml_collections.ConfigDict):
        path = config_flags.get_config_filename(flags.FLAGS[GRID.name])
        raise UserError(f"--grid={path}: there is no such file")
    workdir = pathlib.Path(WORKDIR.value)
    outcome = sweep(Grid.parse(GRID.value.to_dict()), workdir, WORKERS.value)
    print(f"{outcome.done:,} of {outcome.cells:,} cells are measured: {workdir}/results.jsonl")
    if outcome.stopped:
        print("stopped: run the same command to go on", file=sys.stderr)
        return EXIT_PREEMPTED
    for lane, told in outcome.failed.items():
        print(f"failed: {lane}: {told}", file=sys.stderr)
    return 1 if outcome.failed else None


if __name__ == "__main__":
    cli.run(main)
