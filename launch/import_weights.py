"""Imports weights: makes a folder that a run can start from with --config.init_from=FOLDER.

  python -m launch.import_weights --format=bert --input=FOLDER --output=runs/bert/weights \\
      --config=configs/minilm_warm_start.py

FOLDER holds the weights (model.safetensors, or PyTorch's with requirements-torch.txt), their
config.json and, where there is one, their tokenizer. The configuration is that of the later run:
sizes and vocabulary must agree, and what does not is reported. docs/weights.md has the formats.
"""

import dataclasses
import shlex
from typing import Literal

from etils import epath

from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.pretrained.importing import FORMATS, import_weights
from k3m_jax.settings import Settings
from k3m_jax.settings.schema import required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    format: Literal[*sorted(FORMATS)] = required("whose parameter names")
    input: str = required("folder of the weights")
    output: str = required("folder to write, new or empty")
    config: Settings = required("a file of configs/")


def main(flags: Flags) -> None:
    """Imports, and reports what became of the names."""
    settings, tokenizer, output = flags.config, None, epath.Path(flags.output)
    if settings.data.sources:
        inputs = open_inputs(settings.data)
        settings, tokenizer = inputs.resolve(settings), inputs.tokenizer
    elif settings.data.tokenizer:
        tokenizer = Tokenizer.load(settings.data.tokenizer)
    imported = import_weights(flags.format, flags.input, output, settings, tokenizer)
    print(imported.report())
    weights = shlex.quote(f"--config.init_from={output}")
    words = shlex.quote(f"--config.data.tokenizer={output}") if holds_tokenizer(output) else ""
    print(f"written: {output}")
    print(f"next: python -m launch.pretrain … {words} {weights}")


if __name__ == "__main__":
    cli.run(main)
