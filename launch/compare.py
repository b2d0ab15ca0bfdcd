"""Compares runs: one figure of their curves, one table of their held-out numbers.

  python -m launch.compare --runs=runs/minilm/warm,runs/minilm/scratch --output=comparison.png

Prints the table as Markdown. The runs are called by the names of their folders.
"""

import dataclasses

from etils import epath

from k3m_jax.evaluation.curves import comparison_table, draw_curves
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import option, required
from k3m_jax.training.progress import METRICS, read_metrics
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    runs: tuple[str, ...] = required("folders of runs, two or more")
    output: str = option("comparison.png", "figure to write")


def main(flags: Flags) -> None:
    """Draws and prints."""
    runs = {}
    for folder in map(epath.Path, flags.runs):
        if not (lines := read_metrics(folder / METRICS)):
            raise UserError(f"--runs: {folder} has no {METRICS}: is it the --workdir of a run?")
        if folder.name in runs:
            raise UserError(f"--runs: two runs are called {folder.name}: rename a folder")
        runs[folder.name] = lines
    draw_curves(runs, epath.Path(flags.output))
    print(comparison_table(runs))
    print(f"written: {flags.output}")


if __name__ == "__main__":
    cli.run(main)
