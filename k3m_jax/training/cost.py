"""What models cost beside each other: parameters, and FLOPs of training."""

import math
from collections.abc import Mapping

from k3m_jax.evaluation.report import markdown_table
from k3m_jax.model.task_network import network_of
from k3m_jax.pretrained.weights_file import abstract_params
from k3m_jax.settings import Settings
from k3m_jax.training.flops import training_flops

HEADER = ("model", "parameters", "", "FLOPs per item", "", "FLOPs of the run", "")


def parameters(settings: Settings) -> int:
    """Numbers in the parameters of what a run of resolved settings trains."""
    return sum(math.prod(x.shape) for x in abstract_params(network_of(settings)).values())


def cost_table(models: Mapping[str, Settings]) -> str:
    """A Markdown table; beside each number stands how far it is from the first model's.

    Args:
      models: resolved settings by what each is called.
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
