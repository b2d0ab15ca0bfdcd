"""The downstream tasks, one file each."""

from k3m_jax import objectives
from k3m_jax.settings import Settings, UserError
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
