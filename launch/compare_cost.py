"""Compares models by what they cost: parameters, and FLOPs of training by formula.

  python -m launch.compare_cost --sources=SHARDS --configs=configs/quickstart.py \\
      --configs=configs/baselines.py:vilbert --configs=configs/baselines.py:vilbert_pkg

Differences are from the first. SHARDS is what launch.build_shards wrote: vocabulary and classes are
part of the cost. Nothing is compiled or run.
"""

import dataclasses

from k3m_jax.compile_check.cost import cost_table
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.runs.training_run import with_pretrained_settings
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    configs: list[str] = required("a file of configs/; may be repeated")
    sources: tuple[str, ...] = required("shards, as for data.sources")


def read(path: str, sources: tuple[str, ...]) -> Settings:
    """The settings of a file, on these shards."""
    settings = cli.read_settings(path)
    data = dataclasses.replace(settings.data, sources=sources)
    settings = dataclasses.replace(settings, data=data)
    if settings.task.downstream:
        settings = with_pretrained_settings(settings)
    return open_inputs(data).resolve(settings)


def main(flags: Flags) -> None:
    """Prints the table."""
    print(cost_table({path: read(path, flags.sources) for path in flags.configs}))


if __name__ == "__main__":
    cli.run(main)
