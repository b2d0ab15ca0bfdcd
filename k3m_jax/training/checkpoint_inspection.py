"""What the checkpoints of a run hold, and whether that is what was saved."""

import dataclasses
import warnings
from collections.abc import Mapping

import jax
from etils import epath

from k3m_jax.parallel import shardings
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.training import step as steps_of_training
from k3m_jax.training.checkpoint_record import Record, read_loss
from k3m_jax.training.checkpoints import Which, kept_steps, open_checkpoint, read_arrays, verify
from k3m_jax.training.task_network import network_of


@dataclasses.dataclass(frozen=True)
class Inspection:
    """One checkpoint, looked at."""

    step: int
    state: str  # verified, unverified (written without digests), or what is wrong with it
    best: bool = False
    loss: float | None = None  # on held-out products
    data: tuple[str, ...] = ()  # fingerprints
    vocabulary: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by array

    @property
    def damaged(self) -> bool:
        """Whether it can't be restored as it was saved."""
        return self.state not in ("verified", "unverified")

    def text(self, arrays: bool = False) -> str:
        """In words, with a line for each of the `arrays` if these are wanted."""
        loss = "not measured" if self.loss is None else f"{self.loss:g}"
        lines = [f"checkpoint {self.step}: {self.state}"]
        if self.versions:
            versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
            lines += [
                f"  held-out loss  {loss}{', the best' * self.best}",
                f"  data           {', '.join(self.data)}",
                f"  vocabulary     {self.vocabulary}",
                f"  arrays         {len(self.digests)} with digests",
                f"  written by     {versions}",
            ]
        if arrays:
            lines += [f"  {name}  {digest}" for name, digest in self.digests.items()]
        return "\n".join(lines)


def inspect(workdir: epath.PathLike, which: Which | None = None) -> list[Inspection]:
    """Restores one checkpoint, or each of a run's, on this machine and verifies it.

    Raises UserError where there is none.
    """
    steps = kept_steps(workdir)
    if which is not None:
        with open_checkpoint(workdir, which) as (_, step):
            steps = [step]
    return [_inspect(workdir, step) for step in steps]


def _inspect(workdir: epath.PathLike, step: int) -> Inspection:
    found = Inspection(step, "")
    try:
        with open_checkpoint(workdir, "best") as (_, best):
            pass
        with open_checkpoint(workdir, step) as (manager, _):
            record = Record.read(manager.directory / str(step))
            found = Inspection(
                step,
                "unverified" if record.digests is None else "verified",
                step == best,
                read_loss(manager.directory / str(step))[1],
                tuple(record.meta.data),
                record.meta.vocabulary,
                record.meta.versions,
                record.digests or {},
            )
            network = network_of(Settings.from_config(record.meta.settings))
            state = jax.eval_shape(lambda: steps_of_training.init_state(network, 0))
            everywhere = shardings.replicated(make_mesh(Mesh(data=1)))
            placement = jax.tree.map(lambda _: everywhere, state)
            arrays = read_arrays(manager, step, shardings.with_shardings(state, placement))
            with warnings.catch_warnings(action="ignore"):  # `state` says the same
                verify(record, arrays.params, arrays.progress)
    except UserError as error:
        return dataclasses.replace(found, state=str(error))
    return found
