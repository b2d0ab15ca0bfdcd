"""Shows what the model sees: rows of a training batch as text, and as a PNG.

    python -m launch.show_batch --config=configs/quickstart.py \\
        --config.data.sources=FOLDER --output=batch.png --rows=4

FOLDER is what launch.build_shards wrote. The batch is the one that training takes at --step, with
its masks and negatives.
"""

import dataclasses

from k3m_jax.data.input import inspection
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    config: Settings = required("a file of configs/")
    output: str = option("batch.png", "PNG to write")
    rows: PositiveInt = option(4, "rows shown, from the first")
    step: NonNegativeInt = option(0, "step of the run whose batch is shown")


def main(flags: Flags) -> None:
    """Prints the rows and writes the figure."""
    inputs = open_inputs(flags.config.data)
    settings = inputs.resolve(flags.config)
    examples, arrays, texts = inspection.first_rows(settings, inputs, flags.step, flags.rows)
    print(*texts, sep="\n\n")
    inspection.draw(arrays, examples, texts, flags.output)
    print(f"\nwritten: {flags.output}")


if __name__ == "__main__":
    cli.run(main)
