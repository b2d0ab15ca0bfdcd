"""Measures how many products per second one core of this machine makes into batches.

  python -m launch.measure_input --config=configs/k3m_base.py --config.data.sources=FOLDER \\
      [--steps=20] [--needed=10000]

What a run's input costs on a host, without any model: CPU seconds are counted, so that what else
the machine does hardly matters. NEEDED is the items/s that the host's devices take, such as
launch.compile_check estimates: the cores that feed them follow.
"""

import dataclasses

from k3m_jax.compile_check.cost import measure_input
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    config: Settings = required("a file of configs/")
    steps: PositiveInt = option(20, "batches of training.batch items to make")
    needed: float = option(0.0, "items/s that the devices of a host take")


def main(flags: Flags) -> None:
    """Measures and prints."""
    inputs = open_inputs(flags.config.data)
    found = measure_input(inputs.resolve(flags.config), inputs, flags.steps)
    print(
        f"{found.items:,} items in {found.cpu_seconds:.1f} s of CPU: {found.rate:,.0f} items/s per "
        f"core, {found.bytes_per_item / 1e3:,.0f} kB each"
    )
    if flags.needed:
        print(f"{flags.needed:,.0f} items/s need {flags.needed / found.rate:.1f} cores")


if __name__ == "__main__":
    cli.run(main)
