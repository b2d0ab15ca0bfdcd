"""Models beside each other by what they cost: parameters, and FLOPs of training by formula.

  python -m launch.compare_cost --sources=SHARDS --configs=configs/quickstart.py \\
      --configs=configs/baselines.py:vilbert --configs=configs/baselines.py:vilbert_pkg

Differences are from the first. SHARDS is what launch.build_shards wrote: vocabulary and classes are
part of the cost. Nothing is compiled or run.
"""

import dataclasses

import ml_collections
from absl import app, flags
from ml_collections.config_flags import config_flags

from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.runs.fine_tuning import with_pretrained_settings
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.cost import cost_table
from launch import cli

CONFIGS = flags.DEFINE_multi_string("configs", None, "a file of configs/; may be repeated")
SOURCES = flags.DEFINE_list("sources", None, "shards, as for data.sources", required=True)
flags.mark_flag_as_required("configs")


def read(path: str) -> Settings:
    """The settings of a file, on the shards of the flags."""
    config = config_flags.ConfigFileFlagParser("configs").parse(path)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"--configs={path}: there is no such file")
    settings = Settings.from_config(config)
    data = dataclasses.replace(settings.data, sources=tuple(SOURCES.value))
    settings = dataclasses.replace(settings, data=data)
    if settings.task.downstream:
        settings = with_pretrained_settings(settings)
    return open_inputs(data).resolve(settings)


def main(argv: list[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    print(cost_table({path: read(path) for path in CONFIGS.value}))


if __name__ == "__main__":
    cli.run(main)
