"""Exports a pretrained K3M as one folder that needs neither the run nor, to be used, this library.

  python -m launch.export --workdir=runs/first --output=models/first [--platforms=cpu,cuda,tpu]

The folder holds the weights, the settings, the tokenizer, a model card with the lines that load it,
and its functions compiled ahead for each platform (docs/serving.md).
"""

import dataclasses
import shlex

from etils import epath

from k3m_jax.serving.export import PLATFORMS, export_run
from k3m_jax.settings.schema import option, required
from launch import cli, run_flags


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    workdir: str = required("folder of the run")
    output: str = required("folder to write, new or empty")
    checkpoint: str = option("best", "best (by held-out loss), latest, or a step")
    platforms: tuple[str, ...] = option(tuple(PLATFORMS), "of the artefacts; --platforms= for none")
    sources: tuple[str, ...] = option((), "the run's shards, if they have moved")
    tokenizer: str = option("", "folder of the run's tokenizer, if it has moved")


def main(flags: Flags) -> None:
    """Exports, and lists what was written."""
    output = epath.Path(flags.output)
    export_run(
        epath.Path(flags.workdir),
        output,
        which=run_flags.checkpoint(flags.checkpoint),
        platforms=flags.platforms,
        sources=flags.sources,
        tokenizer=flags.tokenizer,
    )
    for path in sorted(output.iterdir()):
        print(f"{path.stat().length:>13,}  {path}")
    model = shlex.quote(f"--model={output}")
    print(f"next: python -m launch.embed {model} --help, or read {output}/README.md")


if __name__ == "__main__":
    cli.run(main)
