"""Pretrains K3M on shards of products; the same command resumes a run that was stopped.

  python -m launch.pretrain --config=configs/quickstart.py --workdir=runs/first \\
      --config.data.sources=FOLDER [--config.optimizer.learning_rate=3e-4 …]

FOLDER is what launch.build_shards wrote. `--config=configs/quickstart.py:debug` is the same, tiny.
docs/configuration.md has all settings.

Several processes train as one where the cluster says so or --config.distributed.coordinator does
(docs/distributed.md).

Exit codes: 0 finished; 2 a mistake in the command, told in one line; 75 told to stop (SIGTERM or
Ctrl-C): the state is saved, run the same command again.
"""

import sys

from absl import app, flags
from etils import epath
from ml_collections import config_flags

from k3m_jax.parallel import distributed
from k3m_jax.runs.training_run import run
from k3m_jax.settings import Settings
from k3m_jax.training import debug
from k3m_jax.training.preemption import EXIT_PREEMPTED
from launch import cli

CONFIG = config_flags.DEFINE_config_file("config", help_string="a file of configs/")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, events")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> int | None:
    """Pretrains."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    return train(cli.read_settings(CONFIG))


def train(settings: Settings) -> int | None:
    """Runs these settings in --workdir and tells what came of it; the exit code."""
    workdir = epath.Path(WORKDIR.value)
    debug.configure_jax_debug(settings.debug)
    with distributed.initialize(settings.distributed, saves=True):
        finished = run(settings, workdir)
        leads = distributed.is_lead_process()
    if leads and finished:
        print(f"finished: {workdir}; next: python -m launch.evaluate --workdir={workdir}")
    elif leads:
        print(f"stopped and saved in {workdir}: run the same command to go on", file=sys.stderr)
    return None if finished else EXIT_PREEMPTED


if __name__ == "__main__":
    cli.run(main)
