"""Makes the report of a grid: tables, figures, and one page to open in a browser.

  python -m launch.report --workdir=runs/grid [--output=FOLDER] [--split=test]

Reads results.jsonl in --workdir, finished or not, and writes --workdir/report: index.html (all of
it, in one file), report.md, report.json (unrounded) and figures/. Where the runs lie there still,
K3M's attention over the triples of some products of --split is drawn. docs/reports.md tells how to
read it.
"""

import pathlib

from absl import app, flags

from k3m_jax.sweeps.report.writing import write_report
from launch import cli

WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the grid, or of its results", required=True
)
OUTPUT = flags.DEFINE_string("output", "", "folder to write into; --workdir/report if empty")
SPLIT = flags.DEFINE_string("split", "test", "whose products' attention is drawn")


def main(argv: list[str]) -> None:
    """Writes and reports."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    workdir = pathlib.Path(WORKDIR.value)
    written = write_report(workdir, pathlib.Path(OUTPUT.value or workdir / "report"), SPLIT.value)
    print(
        f"{written.told}\nwritten: {written.files[0]}, and {len(written.files) - 1} files beside it"
    )


if __name__ == "__main__":
    cli.run(main)
