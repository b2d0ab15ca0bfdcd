"""Exports a pretrained K3M as one folder that needs neither the run nor, to be used, this library.

  python -m launch.export --workdir=runs/first --output=models/first [--platforms=cpu,cuda,tpu]

The folder holds the weights, the settings, the tokenizer, a model card with the lines that load it,
and its functions compiled ahead for each platform. docs/serving.md tells more.
"""

from absl import app, flags
from etils import epath

from k3m_jax.serving.functions import PLATFORMS
from k3m_jax.serving.run_export import export_run
from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
OUTPUT = flags.DEFINE_string("output", None, "folder to write, new or empty", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by held-out loss), latest, or a step")
ON = flags.DEFINE_list("platforms", list(PLATFORMS), "of the artefacts; --platforms= makes none")
SOURCES = flags.DEFINE_list("sources", [], "the run's shards, if they have moved")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "folder of the run's tokenizer, if it has moved")


def main(argv: list[str]) -> None:
    """Exports, and lists what was written."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    output = epath.Path(OUTPUT.value)
    export_run(
        epath.Path(WORKDIR.value),
        output,
        which=cli.checkpoint(CHECKPOINT),
        platforms=ON.value,
        sources=SOURCES.value,
        tokenizer=TOKENIZER.value,
    )
    for path in sorted(output.iterdir()):
        print(f"{path.stat().length:>13,}  {path}")
    print(f"next: python -m launch.embed --model={output} --help, or read {output}/README.md")


if __name__ == "__main__":
    cli.run(main)
