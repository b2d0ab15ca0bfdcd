"""How many products a second one core of this machine makes into batches.

  python -m launch.measure_input --config=configs/k3m_base.py --config.data.sources=FOLDER \\
      [--steps=20] [--needed=10000]

What a run's input costs on a host, without any model: CPU seconds are counted, so that what else
the machine does hardly matters. NEEDED is the items/s that the host's devices take, such as
launch.compile_check estimates: the cores that feed them follow.
"""

from absl import app, flags
from ml_collections import config_flags

from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.settings import UserError
from k3m_jax.training.throughput import measure_input
from launch import cli

CONFIG = config_flags.DEFINE_config_file("config", help_string="a file of configs/")
STEPS = flags.DEFINE_integer("steps", 20, "batches of training.batch items to make")
NEEDED = flags.DEFINE_float("needed", 0.0, "items/s that the devices of a host take")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if STEPS.value < 1:
        raise UserError(f"--steps {STEPS.value}: at least one batch")
    settings = cli.read_settings(CONFIG)
    inputs = open_inputs(settings.data)
    found = measure_input(inputs.resolve(settings), inputs, STEPS.value)
    print(
        f"{found.items:,} items in {found.cpu_seconds:.1f} s of CPU: {found.rate:,.0f} items/s per "
        f"core, {found.bytes_per_item / 1e3:,.0f} kB each"
    )
    if NEEDED.value:
        print(f"{NEEDED.value:,.0f} items/s need {NEEDED.value / found.rate:.1f} cores")


if __name__ == "__main__":
    cli.run(main)
