"""What a run minimises, by its task."""

from collections.abc import Callable
from typing import NamedTuple

from k3m_jax.objectives import downstream, pretraining
from k3m_jax.settings import Task


class Objective(NamedTuple):
    """Three functions; `pretraining` tells their arguments."""

    weights: Callable
    sums: Callable
    total: Callable


def objective_of(task: Task) -> Objective:
    """Of a run's task."""
    if task.downstream:
        return Objective(downstream.weights, downstream.sums_of(task.name), downstream.total)
    return Objective(pretraining.weights, pretraining.sums, pretraining.total)
