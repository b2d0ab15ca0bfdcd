"""The results of a grid: a file of JSON lines, one for each cell that is measured.

The file is all that a sweep needs to know what is done, and a report to be written: lines are only
ever added, and it may be copied to where the runs are not.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from k3m_jax.experiments.grid import Cell, Grid
from k3m_jax.schema import UserError

RESULTS = "results.jsonl"


def read_results(path: pathlib.Path) -> dict[Cell, dict[str, Any]]:
    """The lines of a results file by cell; a line that was cut short is left out.

    Raises:
      UserError: a line that is no result.
    """
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        try:
            found[Cell(*(content[name] for name in Cell._fields))] = content
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: no result of a grid ({error!r})") from error
    return found


def done(path: pathlib.Path, grid: Grid) -> set[Cell]:
    """The cells of the grid that the file has.

    Raises:
      UserError: a line that is no result, or one of this cell as the grid had it before a change.
    """
    results, cells = read_results(path), set(grid.cells())
    for cell in cells & set(results):
        if results[cell]["fingerprint"] != grid.fingerprint(cell):
            raise UserError(
                f"{path}: {', '.join(map(str, filter(None, cell)))} was measured with other "
                "settings than the grid's: take another --workdir, or remove its line to measure it"
            )
    return cells & set(results)


def add(path: pathlib.Path, cell: Cell, fingerprint: str, content: Mapping[str, Any]) -> None:
    """Adds a line, at once: several processes may."""
    line = {**cell._asdict(), "fingerprint": fingerprint, **content}
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with path.open("a+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text  # behind a line cut short
        file.write(text.encode())
