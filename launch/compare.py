"""Runs beside each other: one figure of their curves, one table of their held-out numbers.

  python -m launch.compare --runs=runs/minilm/warm,runs/minilm/scratch --output=comparison.png

Prints the table as Markdown. The runs are called by the names of their folders.
"""

from absl import app, flags
from etils import epath

from k3m_jax.evaluation.curves import comparison_table, draw_comparison
from k3m_jax.settings import UserError
from k3m_jax.training.metric_writer import METRICS, read_metrics
from launch import cli

RUNS = flags.DEFINE_list("runs", None, "folders of runs, two or more", required=True)
OUTPUT = flags.DEFINE_string("output", "comparison.png", "figure to write")


def main(argv: list[str]) -> None:
    """Draws and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    runs = {}
    for folder in map(epath.Path, RUNS.value):
        if not (lines := read_metrics(folder / METRICS)):
            raise UserError(f"--runs: {folder} has no {METRICS}: is it the --workdir of a run?")
        if folder.name in runs:
            raise UserError(f"--runs: two runs are called {folder.name}: rename a folder")
        runs[folder.name] = lines
    draw_comparison(runs, epath.Path(OUTPUT.value))
    print(comparison_table(runs))
    print(f"written: {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
