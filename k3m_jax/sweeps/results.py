"""The results of a grid: a file of JSON lines, one for each cell that is measured.

The file is all that a sweep needs to know what is done, and a report to be written: lines are only
ever added, and it may be copied to where the runs are not.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from k3m_jax.settings import Corruption, UserError
from k3m_jax.sweeps.grid import Grid, Trial
from k3m_jax.tasks.trivial_baselines import BASELINES

RESULTS = "results.jsonl"
COSTS = ("parameters", "flops", "seconds")  # what a pretrained model's line has beside metrics


class Lines(NamedTuple):
    """What a results file holds."""

    lines: list[dict[str, Any]]
    cut_short: int  # how many more lines were, where a process was killed


def read_lines(path: pathlib.Path) -> Lines:
    """The lines of a results file; none where there is no file.

    Raises:
      UserError: a line that is no result.
    """
    found, cut_short = [], 0
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if text.count("{") > text.count("}"):
                cut_short += 1
                continue
            line = None
        if not _is_result(line):
            raise UserError(
                f"{path}:{number}: this is no result of a grid ({', '.join(Trial._fields)} and "
                "metrics with a value each): mend or remove the line"
            )
        found.append(line)
    return Lines(found, cut_short)


def read_results(path: pathlib.Path) -> dict[Trial, dict[str, Any]]:
    """The same by cell; of one that stands there twice the later line counts."""
    return {Trial(*(line[name] for name in Trial._fields)): line for line in read_lines(path).lines}


def done(path: pathlib.Path, grid: Grid) -> set[Trial]:
    """The cells of the grid that the file has.

    Raises:
      UserError: a line that is no result, or one of this cell, or of a floor of it, as the grid had
        it before a change.
    """
    results, cells, holds = read_results(path), set(grid.cells()), _validity(grid)
    known = cells | {cell._replace(model=floor) for cell in cells for floor in BASELINES}
    for cell, line in results.items():
        if cell in known and not holds(cell, line):
            raise UserError(
                f"{path}: {', '.join(map(str, filter(None, cell)))} was measured with other "
                "settings than the grid's: take another --workdir, or remove its line to measure it"
            )
    return cells & set(results)


def lacks_floors(path: pathlib.Path, grid: Grid, cells: Iterable[Trial]) -> bool:
    """Whether of any of the cells no floor of this grid stands in the file yet.

    Floors know no model, and no chance: they are measured once, of products that each seed cuts
    anew once a seed.
    """

    def asked(cell: Trial) -> Trial:
        return cell._replace(model="", seed=cell.seed if grid.data[cell.data].folds else 0)

    holds = _validity(grid)
    there = {
        asked(cell)
        for cell, line in read_results(path).items()
        if cell.model in BASELINES
        and (cell.data in grid.data and cell.task in grid.tasks)
        and holds(cell, line)
    }
    return not there.issuperset(map(asked, cells))


def add(path: pathlib.Path, cell: Trial, fingerprint: str, content: Mapping[str, Any]) -> None:
    """Adds a line, at once: several processes may."""
    line = {**cell._asdict(), "fingerprint": fingerprint, **content}
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with path.open("a+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text  # behind a line cut short
        file.write(text.encode())


def _validity(grid: Grid) -> Callable[[Trial, Mapping[str, Any]], bool]:
    """What tells whether the grid would measure a line as it was.

    A floor has the fingerprint of the model whose lane measured it, and that may be any.
    """

    @functools.cache
    def fingerprint(data: str, model: str, task: str) -> str:
        return grid.fingerprint(Trial(data, model, 0, task, "", ""))  # of any seed and corruption

    def holds(cell: Trial, line: Mapping[str, Any]) -> bool:
        models = grid.models if cell.model in BASELINES else (cell.model,)
        return line.get("fingerprint") in {fingerprint(cell.data, m, cell.task) for m in models}

    return holds


def _is_result(line: Any) -> bool:
    """Whether it has what a report and a sweep read."""
    try:
        cell = Trial(*(line[name] for name in Trial._fields))
        numbers = [metric["value"] for metric in line["metrics"].values()]
        numbers += [line.get(name) for name in COSTS]
        for corruption in filter(None, (cell.training, cell.corruption)):
            Corruption.parse(corruption)
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        return False
    texts = (each for each in cell if each is not cell.seed)
    named = isinstance(cell.seed, int) and all(isinstance(each, str) for each in texts)
    return named and all(each is None or isinstance(each, int | float) for each in numbers)
