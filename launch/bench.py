"""Measures one part of a run on this machine, next to what the machine can do.

  python -m launch.bench step --config=configs/k3m_base.py --config.data.sources=FOLDER \\
      [--regions_of_noise] [--runs=5] [--json=FILE]
  python -m launch.bench input --config=… --config.data.sources=FOLDER

Times are medians over runs that take turns, so that a busy machine slows all alike: trust ratios
(docs/performance.md).
"""

import dataclasses
import sys
from typing import Literal

from k3m_jax.benchmarks.report import PARTS, measure, write
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    what: Literal[PARTS] = required("the part; may stand alone, before the flags")
    config: Settings = required("a file of configs/; without data.sources, step takes noise")
    runs: PositiveInt = option(5, "runs that medians are of")
    items: PositiveInt = option(512, "input: at least so many")
    regions_of_noise: bool = option(False, "step: full pictures of 36 x 2048 random numbers")
    json: str = option("", "file to write the figures to")


def main(flags: Flags) -> None:
    """Measures, prints a table, and writes the figures."""
    write(measure(flags), flags.json)


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--what={sys.argv[1]}"
    cli.run(main)
