"""Compiles the step of a run for devices that this machine does not have, and says what it costs.

  python -m launch.compile_check --config=configs/tpu_v5e_256.py --topology=v5e:16x16 \\
      [--slices=2] [--json=FILE] [--find-batch]

TOPOLOGY is a slice of TPUs (v5e, v5p, v6e; --slices of them), a host of GPUs (h100:8) or simulated
CPU devices (cpu:8). The TPU's compiler comes with requirements-tpu.txt, the GPU's with
requirements-cuda12.txt; without them it is compiled for as many simulated CPU devices. Where the
configuration names shards, their vocabulary and classes count, else --vocabulary and --classes.
docs/scaling.md tells how to read the table. Exit code 2: the step does not fit, or a mistake.
"""

import json
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from k3m_jax.compile_check.check import check, find_batch
from k3m_jax.compile_check.table import table
from k3m_jax.compile_check.topologies import open_topology
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.settings import Settings, UserError
from launch import cli

CONFIG = config_flags.DEFINE_config_file("config", help_string="a file of configs/")
TOPOLOGY = flags.DEFINE_string("topology", None, "v5e:16x16, v5p:4x4x8, h100:8, cpu:8, …")
SLICES = flags.DEFINE_integer("slices", 1, "such slices of TPUs, joined by their hosts' network")
JSON = flags.DEFINE_string("json", "", "file to write the figures to")
FIND_BATCH = flags.DEFINE_bool("find-batch", False, "take the largest training.batch that fits")
VOCABULARY = flags.DEFINE_integer("vocabulary", 21128, "tokens, that of bert-base-chinese")
CLASSES = flags.DEFINE_integer("classes", 1600, "region classes, a Visual Genome detector's")
flags.mark_flags_as_required(["config", "topology"])


def resolved(settings: Settings) -> Settings:
    """With the sizes that shards tell, or the flags."""
    if settings.data.sources:
        return open_inputs(settings.data).resolve(settings)
    return settings.resolved(
        vocabulary=settings.model.vocabulary or VOCABULARY.value,
        classes=settings.image.classes or CLASSES.value,
    )


def main(argv: list[str]) -> None:
    """Compiles, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if JSON.value and not (folder := pathlib.Path(JSON.value).parent).is_dir():
        raise UserError(f"--json={JSON.value}: there is no folder {folder}")
    topology = open_topology(TOPOLOGY.value, SLICES.value)
    settings = resolved(cli.read_settings(CONFIG))
    print(f"compiling for {TOPOLOGY.value}: this takes some minutes", file=sys.stderr)
    result = (find_batch if FIND_BATCH.value else check)(settings, topology)
    print(table(result))
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(result.json(), indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
