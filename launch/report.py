"""Makes the report of a grid: tables, figures, and one page to open in a browser.

  python -m launch.report --workdir=runs/grid [--output=FOLDER] [--split=test]

Reads results.jsonl in --workdir, finished or not, and writes --workdir/report: index.html (all of
it, in one file), report.md, report.json (unrounded) and figures/. Where the runs are still there,
K3M's attention over the triples of some products of --split is drawn. docs/reports.md explains how
to read it.
"""

import dataclasses
import pathlib

from k3m_jax.settings.schema import option, required
from k3m_jax.sweeps.report.writing import write_report
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    workdir: str = required("folder of the grid, or of its results")
    output: str = option("", "folder to write into; --workdir/report if empty")
    split: str = option("test", "whose products' attention is drawn")


def main(flags: Flags) -> None:
    """Writes and reports."""
    workdir = pathlib.Path(flags.workdir)
    written = write_report(workdir, pathlib.Path(flags.output or workdir / "report"), flags.split)
    others = len(written.files) - 1
    print(f"{written.progress}\nwritten: {written.files[0]}, and {others} more files")


if __name__ == "__main__":
    cli.run(main)
