"""The results of a grid: a file of JSON lines, one for each measured trial.

The file is all that a sweep needs to know what is finished and all that a report needs: lines are
only ever appended, and the file may be copied to where the runs are not.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from k3m_jax.settings import Corruption, UserError
from k3m_jax.sweeps.grid import Grid, Trial
from k3m_jax.tasks.trivial_baselines import BASELINES as TRIVIAL_BASELINES

RESULTS = "results.jsonl"
COSTS = ("parameters", "flops", "seconds")  # of a pretrained model's line, next to its metrics


class Lines(NamedTuple):
    """Content of a results file."""

    lines: list[dict[str, Any]]
    truncated: int  # number of further lines that a killed process left unfinished


def read_lines(path: pathlib.Path) -> Lines:
    """The lines of a results file; none if the file does not exist.

    Raises:
      UserError: a line is not a result.
    """
    found, truncated = [], 0
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if text.count("{") > text.count("}"):
                truncated += 1
                continue
            line = None
        if not _is_result(line):
            raise UserError(
                f"{path}:{number}: not a result of a grid ({', '.join(Trial._fields)} and metrics "
                "with a value each): repair or remove the line"
            )
        found.append(line)
    return Lines(found, truncated)


def read_results(path: pathlib.Path) -> dict[Trial, dict[str, Any]]:
    """The lines by trial; of repeated trials the last line counts."""
    return {Trial(*(line[name] for name in Trial._fields)): line for line in read_lines(path).lines}


def finished_trials(path: pathlib.Path, grid: Grid) -> set[Trial]:
    """The trials of the grid that the file has results of.

    Raises:
      UserError: a line is not a result, or belongs to one of these trials or its trivial baselines
        but was measured before the grid was changed.
    """
    results, trials, is_valid = read_results(path), set(grid.trials()), _validity(grid)
    known = trials | {t._replace(model=name) for t in trials for name in TRIVIAL_BASELINES}
    for trial, line in results.items():
        if trial in known and not is_valid(trial, line):
            raise UserError(
                f"{path}: {', '.join(map(str, filter(None, trial)))} was measured with settings "
                "other than the grid's: choose another --workdir, or remove the line to measure it "
                "again"
            )
    return trials & set(results)


def needs_trivial_baselines(path: pathlib.Path, grid: Grid, trials: Iterable[Trial]) -> bool:
    """Whether the file lacks this grid's trivial baselines for any of the trials.

    They depend neither on the model nor on chance, so they are measured once, or once per seed
    where each seed holds out another fold of the products.
    """

    def without_model(trial: Trial) -> Trial:
        return trial._replace(model="", seed=trial.seed if grid.data[trial.data].folds else 0)

    is_valid = _validity(grid)
    measured = {
        without_model(trial)
        for trial, line in read_results(path).items()
        if trial.model in TRIVIAL_BASELINES
        and (trial.data in grid.data and trial.task in grid.tasks)
        and is_valid(trial, line)
    }
    return not measured.issuperset(map(without_model, trials))


def append(path: pathlib.Path, trial: Trial, fingerprint: str, content: Mapping[str, Any]) -> None:
    """Appends one line in one write, so that several processes may."""
    line = {**trial._asdict(), "fingerprint": fingerprint, **content}
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with path.open("a+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text  # after a truncated line
        file.write(text.encode())


def _validity(grid: Grid) -> Callable[[Trial, Mapping[str, Any]], bool]:
    """A predicate: was this line measured with the settings that the grid has now?

    A trivial baseline has the fingerprint of whichever model's run group measured it.
    """

    @functools.cache
    def fingerprint(data: str, model: str, task: str) -> str:
        return grid.fingerprint(Trial(data, model, 0, task, "", ""))  # of any seed and corruption

    def is_valid(trial: Trial, line: Mapping[str, Any]) -> bool:
        models = grid.models if trial.model in TRIVIAL_BASELINES else (trial.model,)
        return line.get("fingerprint") in {fingerprint(trial.data, m, trial.task) for m in models}

    return is_valid


def _is_result(line: Any) -> bool:
    """Whether it has what a report and a sweep read."""
    try:
        trial = Trial(*(line[name] for name in Trial._fields))
        numbers = [metric["value"] for metric in line["metrics"].values()]
        numbers += [line.get(name) for name in COSTS]
        for corruption in filter(None, (trial.training, trial.corruption)):
            Corruption.parse(corruption)
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        return False
    texts = (each for each in trial if each is not trial.seed)
    typed = isinstance(trial.seed, int) and all(isinstance(each, str) for each in texts)
    return typed and all(each is None or isinstance(each, int | float) for each in numbers)
