"""Costs of runs: parameters and FLOPs of models side by side, and the host's share for input."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from k3m_jax.data.input.pipeline import Inputs, train_batches
from k3m_jax.evaluation.report import markdown_table
from k3m_jax.settings import Settings
from k3m_jax.training.flops import training_flops
from k3m_jax.training.task_network import network_of

HEADER = ("model", "parameters", "", "FLOPs per item", "", "FLOPs of the run", "")


def parameters(settings: Settings) -> int:
    """Numbers in the parameters of what a run of resolved settings trains."""
    return sum(math.prod(x.shape) for x in network_of(settings).abstract_params().values())


def cost_table(models: Mapping[str, Settings]) -> str:
    """A Markdown table; next to each number is its difference from the first model's.

    Args:
      models: resolved settings by name.
    """
    costs = [_costs(settings) for settings in models.values()]
    cells = [HEADER]
    for name, row in zip(models, costs, strict=True):
        line = [name]
        for number, first in zip(row, costs[0], strict=True):
            line += [_short(number), f"{100 * (number / first - 1):+.1f} %"]
        cells.append(line)
    return "\n".join(markdown_table(cells))


def _costs(settings: Settings) -> tuple[float, ...]:
    """Under the numbers of `HEADER`."""
    item, training = training_flops(settings), settings.training
    return parameters(settings), item, item * training.batch * training.steps


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"


class InputCost(NamedTuple):
    """What batches cost the host that makes them."""

    items: int
    cpu_seconds: float  # of all threads
    bytes_per_item: float  # of a batch, as it goes to the devices

    @property
    def rate(self) -> float:
        """Items per second and core."""
        return self.items / self.cpu_seconds


def measure_input(settings: Settings, inputs: Inputs, steps: int) -> InputCost:
    """Makes the batches of a run's first `steps` in this process.

    Args:
      settings: resolved by `inputs`.
      inputs: the data.
      steps: as many batches of `settings.training.batch` items.
    """
    here = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, workers=0),
        training=dataclasses.replace(settings.training, steps=steps),
    )
    start, size = time.process_time(), 0
    with contextlib.closing(train_batches(here, inputs)) as batches:
        for batch in batches:
            size += sum(array.nbytes for array in batch.values())
    items = steps * settings.training.batch
    return InputCost(items, time.process_time() - start, size / items)
