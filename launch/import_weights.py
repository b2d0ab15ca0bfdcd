"""Imports someone's weights: a folder that a run can start from with --config.init_from=FOLDER.

  python -m launch.import_weights --format=bert --input=FOLDER --output=runs/bert/weights \\
      --config=configs/minilm_warm_start.py

FOLDER holds the weights (model.safetensors, or PyTorch's with requirements-torch.txt), their
config.json and, where there is one, their tokenizer. The configuration is that of the run to be:
sizes and vocabulary must agree, and what does not is told. docs/weights.md has the formats.
"""

from absl import app, flags
from etils import epath
from ml_collections import config_flags

from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.pretrained.importing import FORMATS, import_weights, report
from launch import cli

FORMAT = flags.DEFINE_enum("format", None, sorted(FORMATS), "whose names", required=True)
INPUT = flags.DEFINE_string("input", None, "folder of the weights", required=True)
OUTPUT = flags.DEFINE_string("output", None, "folder to write, new or empty", required=True)
CONFIG = config_flags.DEFINE_config_file("config", help_string="a file of configs/")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Imports, and tells what became of the names."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    settings, tokenizer, output = cli.read_settings(CONFIG), None, epath.Path(OUTPUT.value)
    if settings.data.sources:
        inputs = open_inputs(settings.data)
        settings, tokenizer = inputs.resolve(settings), inputs.tokenizer
    elif settings.data.tokenizer:
        tokenizer = Tokenizer.load(settings.data.tokenizer)
    imported = import_weights(FORMAT.value, INPUT.value, output, settings, tokenizer)
    print(report(imported))
    words = f"--config.data.tokenizer={output} " if holds_tokenizer(output) else ""
    print(f"written: {output}")
    print(f"next: python -m launch.pretrain … {words}--config.init_from={output}")


if __name__ == "__main__":
    cli.run(main)
