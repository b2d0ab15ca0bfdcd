"""Says what a run's checkpoints hold, and verifies that it is what was saved.

  python -m launch.inspect_checkpoint --workdir=runs/first [--checkpoint=best] [--arrays]

Each array is read and compared with its digest. Exit codes: 0 all are verified, or were written
without digests; 1 one is damaged; 2 a mistake in the command.
"""

import dataclasses

from k3m_jax.settings.schema import option, required
from k3m_jax.training.checkpoint_inspection import inspect
from launch import cli, run_flags


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    workdir: str = required("folder of the run")
    checkpoint: str = option("", "best, latest, or a step; all if empty")
    arrays: bool = option(False, "list every array with its digest")


def main(flags: Flags) -> int:
    """Inspects, and prints what it found."""
    which = run_flags.checkpoint(flags.checkpoint) if flags.checkpoint else None
    found = inspect(flags.workdir, which)
    for each in found:
        print(each.text(flags.arrays))
    return int(any(each.damaged for each in found))


if __name__ == "__main__":
    cli.run(main)
