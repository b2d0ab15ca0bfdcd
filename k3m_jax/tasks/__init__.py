"""The downstream tasks, one file each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from k3m_jax import objectives
from k3m_jax.settings import Settings, Task, UserError
from k3m_jax.settings.schema import check_choice, parse
from k3m_jax.tasks.alignment import Alignment
from k3m_jax.tasks.base import DownstreamTask
from k3m_jax.tasks.classification import Classification
from k3m_jax.tasks.questions import Questions

TASKS = (Classification, Alignment, Questions)
REGISTRY: dict[str, type[DownstreamTask]] = {task.name: task for task in TASKS}


def find(name: str) -> type[DownstreamTask]:
    """A task by name; raises UserError for another."""
    if name not in REGISTRY:
        raise UserError(f"task.name: {name!r} is not one of pretraining, {', '.join(REGISTRY)}")
    return REGISTRY[name]


def training_objectives(settings: Settings) -> tuple[objectives.Objective, ...]:
    """What a run minimises: its task's objective, or those of pretraining."""
    if settings.task.downstream:
        return (find(settings.task.name).objective.from_settings(settings),)
    return objectives.active(settings)


def choose(
    names: Sequence[str], options: Task, file: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Task]:
    """The tasks of these names, of all in `file` if () are; without one, `options` of each kind.

    Raises UserError: a name that is not known, or no name and no file.
    """
    if file is None:
        known = {name: dataclasses.replace(options, name=name) for name in REGISTRY}
    else:
        known = {name: parse(Task, task, f"--tasks.{name}") for name, task in file.items()}
    if file is None and not names:
        raise UserError(f"--task is one or more of {', '.join(REGISTRY)}, or --tasks a file")
    for name in names:
        check_choice("--task", name, known)
    return {name: known[name] for name in names or known}
