"""Pretrains K3M on shards of products; the same command resumes a run that was stopped.

  python -m launch.pretrain --config=configs/quickstart.py --workdir=runs/first \\
      --config.data.sources=FOLDER [--config.optimizer.learning_rate=3e-4 …]

FOLDER is what launch.build_shards wrote. Several processes can train as one (docs/distributed.md).
Exit codes: 0 finished; 2 a mistake; 74 a disk that fails; 75 stopped and saved, run again.
"""

import dataclasses
import os
import shlex
import sys

import jax
from etils import epath

from k3m_jax.parallel import distributed
from k3m_jax.runs.training_run import run
from k3m_jax.settings import Debug, Settings
from k3m_jax.settings.schema import required
from k3m_jax.training.preemption import EXIT_PREEMPTED
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    config: Settings = required("a file of configs/")
    workdir: str = required("folder of the run: checkpoints, metrics, events")


def main(flags: Flags) -> int:
    """Pretrains, and says how it ended."""
    configure_jax_debug(flags.config.debug)
    with distributed.initialize(flags.config.distributed, saves=True):
        finished = run(flags.config, epath.Path(flags.workdir))
        leads = distributed.is_lead_process()
    if leads and finished:
        print(f"finished; next: python -m launch.evaluate --workdir={shlex.quote(flags.workdir)}")
    elif leads:
        print("stopped and saved: run the same command to go on", file=sys.stderr)
    return 0 if finished else EXIT_PREEMPTED


def configure_jax_debug(debug: Debug) -> None:
    """Sets flags of jax and XLA; without effect on a device that jax has already started."""
    jax.config.update("jax_debug_nans", debug.nans)
    jax.config.update("jax_disable_jit", debug.disable_jit)
    if debug.deterministic:
        before = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{before} --xla_gpu_deterministic_ops=true".strip()
    if debug.memory_fraction:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(debug.memory_fraction)


if __name__ == "__main__":
    cli.run(main)
