"""Checkpoints: written in the background, kept by age and by quality, restored onto any mesh.

Their parts are `params`; `progress`, the rest of the state; and `meta`, what the run is.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import operator
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

import k3m_jax
from k3m_jax.data.store import remote
from k3m_jax.model.network import Network, Params
from k3m_jax.parallel import shardings
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.step import State

FOLDER = "checkpoints"
_loss = operator.itemgetter("loss")  # of the metrics of a checkpoint
Which = int | Literal["best", "latest"]

# Settings that may change when a run is resumed: they do not change what is learned, or change
# rounding and noise alone (accumulation, with which a batch fits fewer devices).
RESUMABLE = re.compile(
    r"(debug|distributed|evaluation|mesh)\."
    r"|data\.(threads|workers)"
    r"|model\.(remat|unroll)"
    r"|training\.(accumulation|checkpoint_every|eval_every|keep|log_every|profile_)"
)


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a run is: two runs of equal `settings`, `data` and `vocabulary` are the same."""

    settings: dict[str, Any]  # resolved, as JSON has them
    data: list[str]  # fingerprint of each source's records
    vocabulary: str  # fingerprint of the tokenizer
    versions: dict[str, str]  # of the packages that it runs on
    # What the first parameters were read from (`starting.read_init_from`); None: from scratch.
    imported: dict[str, Any] | None = None

    @classmethod
    def of(cls, settings: Settings, data: Sequence[str], vocabulary: str) -> "Meta":
        """Of a run with these resolved settings and fingerprints, on the installed packages."""
        packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
        versions = {name: importlib.metadata.version(name) for name in packages}
        versions = {k3m_jax.__name__: k3m_jax.__version__, **versions}
        return cls(json.loads(settings.to_json()), list(data), vocabulary, versions)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have as before, by key; data are compared by fingerprint."""
        leaves = jax.tree.leaves_with_path(self.settings, is_leaf=lambda x: not isinstance(x, dict))
        found = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
        found["data.sources"] = f"records of fingerprint {', '.join(self.data)}"
        found["data.tokenizer"] = f"vocabulary of fingerprint {self.vocabulary}"
        return {key: value for key, value in found.items() if not RESUMABLE.match(key)}


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, workdir: epath.PathLike, meta: Meta, keep: int):
        """`keep` is how many of the newest stay, in addition to the best by held-out loss."""
        self._folder, self._meta = remote.absolute(workdir) / FOLDER, meta
        policies = [
            ocp.checkpoint_managers.LatestN(keep),
            # Reversed: the policy keeps the end of its order, which is to be the smallest loss.
            ocp.checkpoint_managers.BestN(n=1, get_metric_fn=_loss, reverse=True),
        ]
        self._manager = _manager(
            self._folder,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # of saves that were killed
        )

    def record_init_source(self, origin: Mapping[str, Any]) -> None:
        """Records in the meta of a fresh run what its parameters were imported from."""
        self._meta = dataclasses.replace(self._meta, imported=dict(origin))

    def restore(self, abstract_state: State) -> State | None:
        """The newest state that can be read; None in a fresh folder.

        Damaged checkpoints are renamed, with a warning. `abstract_state` is that of the `Trainer`.
        Raises UserError: another run's folder, nothing in it can be read, or the disk fails.
        """
        steps, damaged, state = sorted(self._manager.all_steps(), reverse=True), {}, None
        for step in steps:
            try:
                state = self._restore(step, abstract_state)
                break
            except (ValueError, FileNotFoundError, KeyError, TypeError) as error:
                damaged[step] = _first_line(error)
                # Other processes may wait: none can turn to an older one alone, the next start can.
                if jax.process_count() > 1:
                    break
            except OSError as error:
                failed = f"{self._folder / str(step)} can't be read ({_first_line(error)})"
                raise UserError(f"{failed}: repair it and run the same command again") from error
        if damaged and len(damaged) == len(steps):
            failed = f"no checkpoint in {self._folder} can be read ({damaged[steps[0]]})"
            raise UserError(f"{failed}: start in another --workdir, or remove this folder")
        for step, reason in damaged.items():
            folder, new = self._folder / str(step), f"unreadable-{step}"
            with contextlib.suppress(FileNotFoundError):  # another process was here first
                folder.rename(folder.with_name(new))
            warnings.warn(f"{folder} can't be read ({reason}): renamed to {new}", stacklevel=2)
        if damaged:
            self._manager.reload()
            if state is None:
                raise RuntimeError("run the same command again to go on from an older checkpoint")
        return state

    def save(self, step: int, state: State, loss: float | None = None) -> None:
        """Copies the state from the devices and writes it in the background.

        `loss` is that on held-out products, if it was measured.
        """
        # A loss that is not a number ranks as none: last, the newest of them first.
        unmeasured = loss is None or math.isnan(loss)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                progress=ocp.args.StandardSave(state._replace(params=())),
                meta=ocp.args.JsonSave(dataclasses.asdict(self._meta)),
            ),
            metrics={"loss": math.inf if unmeasured else loss},
        )

    def wait(self) -> None:
        """Returns when all is written; raises errors of the background threads."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits likewise, and ends the background threads."""
        self._manager.close()

    def _restore(self, step: int, abstract_state: State) -> State:
        saved = Meta(**_read(self._manager, step, meta=ocp.args.JsonRestore()).meta)
        old, new = saved.identity(), self._meta.identity()
        for key in sorted(old.keys() | new.keys()):
            if (was := old.get(key)) != (now := new.get(key)):
                found = f"{self._folder.parent} holds a run with {key} = {was!r}, not {now!r}"
                raise UserError(f"{found}: set it back, or start in another --workdir")
        params = ocp.args.StandardRestore(abstract_state.params)
        progress = ocp.args.StandardRestore(abstract_state._replace(params=()))
        arrays = _read(self._manager, step, params=params, progress=progress)
        self._meta = dataclasses.replace(self._meta, imported=saved.imported)
        return arrays.progress._replace(params=arrays.params)


def load_meta(workdir: epath.PathLike, which: Which = "best") -> Meta:
    """What the run is that wrote a checkpoint; UserError where there is no such one."""
    with _open(workdir, which) as (manager, step):
        return Meta(**_read(manager, step, meta=ocp.args.JsonRestore()).meta)


def load_params(
    workdir: epath.PathLike, which: Which, network: Network, mesh: Mesh
) -> tuple[Params, int]:
    """Parameters and step of a checkpoint, placed on any mesh; UserError where there is none.

    `which` is a step, the `latest`, or the `best` by held-out loss (the latest if none was
    measured); `network` is of the settings that `load_meta` reads.
    """
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    split = shardings.param_shardings(mesh, params, network.param_axes())
    target = ocp.args.StandardRestore(shardings.with_shardings(params, split))
    with _open(workdir, which) as (manager, step):
        return _read(manager, step, params=target).params, step


@contextlib.contextmanager
def _open(workdir: epath.PathLike, which: Which) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """A run's checkpoints, only to be read, and the step of one of them."""
    folder = remote.absolute(workdir) / FOLDER
    if not folder.is_dir():
        raise UserError(f"{workdir} has no {FOLDER}: train first, python -m launch.pretrain --help")
    with _manager(folder, create=False) as manager:
        if not (steps := sorted(manager.all_steps())):
            raise UserError(f"{folder} has no finished checkpoint yet")
        step = {"latest": steps[-1], "best": manager.best_step()}.get(which, which)
        if step not in steps:
            raise UserError(f"{folder} has no checkpoint of step {step}, only of {steps}")
        yield manager, step


def _manager(folder: epath.Path, **options) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(best_fn=_loss, best_mode="min", **options)
    return ocp.CheckpointManager(folder, options=options)


def _read(manager: ocp.CheckpointManager, step: int, **parts) -> Any:
    return manager.restore(step, args=ocp.args.Composite(**parts))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
