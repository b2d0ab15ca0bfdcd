"""Compiles the step of a run for devices that this machine does not have, and says what it costs.

  python -m launch.compile_check --config=configs/tpu_v5e_256.py --topology=v5e:16x16 \\
      [--slices=2] [--json=FILE] [--find_batch]

TOPOLOGY is a slice of TPUs (v5e, v5p, v6e; --slices of them), a host of GPUs (h100:8) or simulated
CPU devices (cpu:8). The TPU's compiler comes with requirements-tpu.txt, the GPU's with
requirements-cuda12.txt; without them it is compiled for as many simulated CPU devices.
docs/scaling.md explains the table. Exit code 2: the step does not fit, or a mistake.
"""

import dataclasses
import json
import pathlib
import sys

from k3m_jax.compile_check.check import check, find_batch
from k3m_jax.compile_check.table import table
from k3m_jax.compile_check.topologies import open_topology
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.settings import Settings, UserError
from k3m_jax.settings.schema import option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    config: Settings = required("a file of configs/")
    topology: str = required("v5e:16x16, v5p:4x4x8, h100:8, cpu:8, …")
    slices: int = option(1, "such slices of TPUs, joined by their hosts' network")
    json: str = option("", "file to write the figures to")
    find_batch: bool = option(False, "take the largest training.batch that fits")
    vocabulary: int = option(21128, "tokens, where no shards are named")
    classes: int = option(1600, "region classes, where no shards are named")


def main(flags: Flags) -> None:
    """Compiles, prints and writes."""
    if flags.json and not (folder := pathlib.Path(flags.json).parent).is_dir():
        raise UserError(f"--json={flags.json}: there is no folder {folder}")
    topology, settings = open_topology(flags.topology, flags.slices), flags.config
    if settings.data.sources:
        settings = open_inputs(settings.data).resolve(settings)
    else:
        settings = settings.resolved(
            vocabulary=settings.model.vocabulary or flags.vocabulary,
            classes=settings.image.classes or flags.classes,
        )
    print(f"compiling for {flags.topology}: this takes some minutes", file=sys.stderr)
    result = (find_batch if flags.find_batch else check)(settings, topology)
    print(table(result))
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(result.json(), indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
