"""What the commands have in common that measure a run: flags, and how a report is written."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from k3m_jax.settings import Distributed, Mesh, UserError
from k3m_jax.settings.schema import option, required


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Which run, and where its data are."""

    workdir: str = required("folder of the run")
    checkpoint: str = option("best", "best (by held-out loss), latest, or a step")
    sources: tuple[str, ...] = option((), "shards, or folders of products; the run's if empty")
    trained_on: tuple[str, ...] = option((), "the shards the run was trained on, if moved")
    tokenizer: str = option("", "folder of the run's tokenizer, if it has moved")
    distributed: Distributed = Distributed()


def checkpoint(which: str) -> int | str:
    """A `--checkpoint`: best, latest, or a step."""
    return int(which) if which.isdecimal() else which


def mesh(sizes: Sequence[str]) -> Mesh:
    """A `--mesh`; raises UserError for anything but three numbers."""
    try:
        data, fsdp, tensor = map(int, sizes)
    except ValueError as error:
        text = ",".join(sizes)
        raise UserError(f"--mesh={text}: three numbers are expected, data,fsdp,tensor") from error
    return Mesh(data, fsdp, tensor)


def write_report(report: Any, workdir: epath.Path, *others: str) -> None:
    """Writes a report into the run's folder, and prints it with the names of the files."""
    written = ", ".join([*report.write(workdir), *others])
    print(f"{report.text()}\n\nwritten: {written} in {workdir}\n", flush=True)
