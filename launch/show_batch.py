"""Shows what the model sees: rows of a training batch as text, and as a PNG.

    python -m launch.show_batch --config=configs/quickstart.py \\
        --config.data.sources="('FOLDER',)" --output=batch.png --rows=4

FOLDER is what launch.build_shards wrote. The batch is the one that training takes at --step, masks,
negatives and all.
"""

from absl import flags
from ml_collections import config_flags

from k3m_jax.data.input import inspection
from k3m_jax.data.input.collate import collate
from k3m_jax.data.input.pipeline import open_inputs, train_items
from k3m_jax.settings import UserError
from launch import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.")
OUTPUT = flags.DEFINE_string("output", "batch.png", "PNG to write.")
ROWS = flags.DEFINE_integer("rows", 4, "Rows shown, from the first.", lower_bound=1)
STEP = flags.DEFINE_integer("step", 0, "Step of the run whose batch is shown.", lower_bound=0)
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Prints the rows and writes the figure."""
    settings = cli.read_settings(CONFIG)
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    batch, group = settings.training.batch, settings.objectives.group
    rows = ROWS.value
    if rows > batch:
        raise UserError(f"--rows {rows} is more than training.batch {batch}")

    items = train_items(settings, *inputs)
    first = STEP.value * batch
    # Whole groups: the other items that a row is compared with lie in its own.
    examples = [items[first + row] for row in range(-(-rows // group) * group)]
    groups = range(first // group, (first + len(examples)) // group)
    arrays = collate(examples, settings, groups, settings.seed)
    texts = [
        inspection.describe(arrays, row, examples, inputs.tokenizer, settings)
        for row in range(rows)
    ]
    print(inspection.LEGEND, *texts, sep="\n\n")
    inspection.draw(arrays, rows, examples, texts, settings, OUTPUT.value)
    print(f"\nwritten: {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
