"""Checkpoints: written in the background, kept by age and by quality, restored onto any mesh.

Their parts are `params`; `progress`, the rest of the state; and `meta`, the `Record` that binds
both to the run and the step. What is restored is compared with it, each time.
"""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from k3m_jax.data.store import remote
from k3m_jax.data.store.disk import disk_failure
from k3m_jax.model.network import Network, Params
from k3m_jax.parallel import distributed, shardings
from k3m_jax.parallel.digests import digests
from k3m_jax.settings import DiskError, UserError
from k3m_jax.training.checkpoint_record import (
    DamagedError,
    Meta,
    Record,
    read_loss,
    write_loss,
)
from k3m_jax.training.step import State

FOLDER = "checkpoints"
DELETED = "deleted"  # within it: what is being deleted, so that a kill leaves no half checkpoint
PARAMS, PROGRESS = "params/", "progress/"  # how the names of arrays begin
Which = int | Literal["best", "latest"]


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, workdir: epath.PathLike, meta: Meta, keep: int, keep_every: int = 0):
        """`keep` of the newest stay, the best by held-out loss, and each `keep_every`-th step's."""
        self._folder, self._meta = remote.absolute(workdir) / FOLDER, meta
        self._losses: dict[int, float | None] = {}
        policies = [ocp.checkpoint_managers.LatestN(keep), _Best(self._losses)]
        if keep_every:
            policies.append(ocp.checkpoint_managers.EveryNSteps(keep_every))
        self._manager = _manager(
            self._folder,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # of saves that were killed
            todelete_subdir=DELETED,
        )
        self._losses |= _losses(self._folder, self._manager.all_steps())

    def record_init_source(self, origin: Mapping[str, Any]) -> None:
        """Records in the meta of a fresh run what its parameters were imported from."""
        self._meta = dataclasses.replace(self._meta, imported=dict(origin))

    def restore(self, abstract_state: State) -> State | None:
        """The newest state that is what was saved; None in a fresh folder.

        Damaged checkpoints are renamed, with a warning. `abstract_state` is that of the `Trainer`.
        Raises UserError: another run's folder, nothing in it can be read, or the disk fails.
        """
        steps, damaged, state = sorted(self._manager.all_steps(), reverse=True), {}, None
        for step in steps:
            try:
                with _damage(self._folder / str(step), "repair it and run the same command again"):
                    state = self._restore(step, abstract_state)
                break
            except DamagedError as error:
                damaged[step] = str(error)
                # Other processes may wait: none can turn to an older one alone, the next start can.
                if jax.process_count() > 1:
                    break
        if damaged and len(damaged) == len(steps):
            failed = f"no checkpoint in {self._folder} can be read ({damaged[steps[0]]})"
            raise UserError(f"{failed}: start in another --workdir, or remove this folder")
        for step, reason in damaged.items():
            quarantine(self._folder / str(step), reason)
        if damaged:
            self._manager.reload()
            if state is None:
                raise RuntimeError("run the same command again to go on from an older checkpoint")
        return state

    def save(self, step: int, state: State) -> None:
        """Copies the state from the devices and writes it in the background."""
        self.wait()
        progress = state._replace(params=())
        found = digests(state.params, PARAMS) | digests(progress, PROGRESS)
        self._losses[step] = None
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                progress=ocp.args.StandardSave(progress),
                meta=ocp.args.JsonSave(Record(self._meta, step, found).to_json()),
            ),
        )

    def record_loss(self, step: int, loss: float | None) -> None:
        """Waits until a checkpoint is written, and records its loss on held-out products with it.

        A loss that is None or not a number ranks last, the newest of them first.
        """
        self.wait()
        self._losses[step] = loss = None if loss is None or not math.isfinite(loss) else loss
        if distributed.is_lead_process():
            write_loss(self._folder / str(step), loss)

    def is_measured(self, step: int) -> bool:
        """Whether the loss of a checkpoint was recorded; the same in all processes."""
        measured = read_loss(self._folder / str(step))[0]
        if jax.process_count() > 1:  # a shared file system may show it to some of them later
            measured = bool(multihost_utils.broadcast_one_to_all(np.int32(measured)))
        return measured

    def wait(self) -> None:
        """Returns when all is written and on the disk; raises errors of the background threads."""
        self._manager.wait_until_finished()
        if distributed.is_lead_process() and (steps := self._manager.all_steps()):
            # What replaces a checkpoint must outlive a power cut before that one is gone.
            remote.sync(self._folder / str(max(steps)))
            remote.sync_folder(self._folder)
            if (self._folder / DELETED).exists():
                (self._folder / DELETED).rmtree()

    def close(self) -> None:
        """Waits likewise, and ends the background threads."""
        self._manager.close()

    def _restore(self, step: int, abstract_state: State) -> State:
        record = Record.read(self._folder / str(step))
        old, new = record.meta.identity(), self._meta.identity()
        for key in sorted(old.keys() | new.keys()):
            if (was := old.get(key)) != (now := new.get(key)):
                found = f"{self._folder.parent} holds a run with {key} = {was!r}, not {now!r}"
                raise UserError(f"{found}: set it back, or start in another --workdir")
        arrays = read_arrays(self._manager, step, abstract_state)
        verify(record, arrays.params, arrays.progress)
        self._meta = dataclasses.replace(self._meta, imported=record.meta.imported)
        return arrays.progress._replace(params=arrays.params)


@dataclasses.dataclass
class _Best:
    """Keeps the step of the smallest held-out loss; `losses` is filled as steps are saved."""

    losses: Mapping[int, float | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, whether it stays."""
        best = best_step([each.step for each in checkpoints], self.losses)
        return [each.step == best for each in checkpoints]


def best_step(steps: Sequence[int], losses: Mapping[int, float | None]) -> int | None:
    """That of the smallest loss; the latest where none was measured; None of no steps."""

    def rank(step: int) -> tuple[float, int]:
        loss = losses.get(step)
        return math.inf if loss is None else loss, -step

    return min(steps, key=rank, default=None)


def load_meta(workdir: epath.PathLike, which: Which = "best") -> Meta:
    """What the run is that wrote a checkpoint; UserError where there is no such one."""
    with open_checkpoint(workdir, which) as (manager, step):
        return Record.read(manager.directory / str(step)).meta


def load_params(
    workdir: epath.PathLike, which: Which, network: Network, mesh: Mesh
) -> tuple[Params, int]:
    """Parameters and step of a checkpoint, placed on any mesh.

    `which` is a step, the `latest`, or the `best` by held-out loss (the latest if none was
    measured); `network` is of the settings that `load_meta` reads. Raises UserError where there is
    none, or it is not what was saved.
    """
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    split = shardings.param_shardings(mesh, params, network.param_axes())
    with open_checkpoint(workdir, which) as (manager, step):
        record = Record.read(manager.directory / str(step))
        target = ocp.args.StandardRestore(shardings.with_shardings(params, split))
        params = manager.restore(step, args=ocp.args.Composite(params=target)).params
        verify(record, params)
        return params, step


def kept_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of a run's checkpoints; UserError where it has none."""
    folder = remote.absolute(workdir) / FOLDER
    if not folder.is_dir():
        raise UserError(f"{workdir} has no {FOLDER}: train first, python -m launch.pretrain --help")
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if not steps:
        raise UserError(f"{folder} has no finished checkpoint yet")
    return steps


@contextlib.contextmanager
def open_checkpoint(
    workdir: epath.PathLike, which: Which
) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """A run's checkpoints, only to be read, and the step of one of them.

    Raises UserError where there is none, or where reading it, within the context, shows that it is
    damaged or that the disk fails.
    """
    folder, steps = remote.absolute(workdir) / FOLDER, kept_steps(workdir)
    with _manager(folder, create=False) as manager:
        step = which if which in steps else None
        if which == "latest":
            step = steps[-1]
        elif which == "best":
            step = best_step(steps, _losses(folder, steps))
        if step is None:
            raise UserError(f"{folder} has no checkpoint of step {which}, only of {steps}")
        try:
            with _damage(folder / str(step), "repair it"):
                yield manager, step
        except DamagedError as error:
            others = [each for each in steps if each != step]
            hint = (
                f"name another, of {others}, with --checkpoint" if others else "there is no other"
            )
            damaged = f"checkpoint {step} of {folder} is damaged ({error})"
            raise UserError(f"{damaged}: {hint}") from error


def read_arrays(manager: ocp.CheckpointManager, step: int, abstract_state: State) -> Any:
    """`params` and `progress` of a checkpoint, in the shapes and on the mesh of a state."""
    params = ocp.args.StandardRestore(abstract_state.params)
    progress = ocp.args.StandardRestore(abstract_state._replace(params=()))
    return manager.restore(step, args=ocp.args.Composite(params=params, progress=progress))


def verify(record: Record, params: Params, progress: State | None = None) -> None:
    """Raises DamagedError where arrays are not those that a checkpoint's record speaks of."""
    if record.digests is None:
        found = f"checkpoint {record.step} was written without digests: it is not verified"
        warnings.warn(found, stacklevel=2)
        return
    found = digests(params, PARAMS)
    if progress is not None:
        found |= digests(progress, PROGRESS)
        if missing := record.digests.keys() - found.keys():
            raise DamagedError(f"the array {min(missing)} is missing")
    record.verify(found)


def quarantine(folder: epath.Path, reason: str) -> None:
    """Renames a damaged checkpoint, with a warning; another process may have been first."""
    new = f"unreadable-{folder.name}"
    for count in range(2, 1000):
        if not folder.with_name(new).exists():
            break
        new = f"unreadable-{folder.name}-{count}"  # the step was damaged before
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(new))
    warnings.warn(f"{folder} can't be read ({reason}): renamed to {new}", stacklevel=2)


@contextlib.contextmanager
def _damage(folder: epath.Path, hint: str) -> Iterator[None]:
    """Around the reading of a checkpoint: tells damage from a disk that fails.

    Whatever Orbax raises of a file that it can't make sense of becomes a DamagedError, unless the
    disk does not give the files' bytes at all: then it is a DiskError, and nothing is to be
    renamed. Errors of memory and of devices stay as they are.
    """
    try:
        yield
    except (UserError, DamagedError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax and TensorStore raise nearly anything, and bare Exceptions
        if reason := disk_failure(error) or _unreadable_file(folder):
            raise DiskError(f"{folder} can't be read ({reason}): {hint}") from error
        raise DamagedError(_first_line(error)) from error


def _unreadable_file(folder: epath.Path) -> str:
    """Reads all files of a folder; the first error of the disk, "" where it gives all bytes."""
    try:
        for path in remote.files_below(folder):
            with path.open("rb") as file:
                while file.read(1 << 22):
                    pass
    except OSError as error:
        return _first_line(error)
    return ""


def _losses(folder: epath.Path, steps: Sequence[int]) -> dict[int, float | None]:
    """Held-out losses by step; None where none was measured."""
    return {step: read_loss(folder / str(step))[1] for step in steps}


def _manager(folder: epath.Path, **options) -> ocp.CheckpointManager:
    # Orbax is not to look into checkpoints before one is restored: any may be damaged.
    options = ocp.CheckpointManagerOptions(lightweight_initialize=True, **options)
    return ocp.CheckpointManager(folder, options=options)


def _first_line(error: BaseException) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:200]
