"""Checkpoints: written in the background, kept by age and by quality, restored onto any mesh.

A checkpoint of step n (n steps done) has four parts: `params`; `progress`, the rest of the state;
`data`, where the input stands; `meta`, what the run is (settings, fingerprints, versions).
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import warnings
from collections.abc import Mapping, Sequence
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
from k3m_jax.training.state import State

FOLDER = "checkpoints"
Which = int | Literal["best", "latest"]

# Settings that may change between a run and its resumption: they do not change what is learned, or
# their fingerprint is compared in their place (sources, tokenizer), or only by rounding and noise
# (accumulation, with which a batch fits fewer devices).
RESUMABLE_KEYS = (
    "data.sources",
    "data.threads",
    "data.tokenizer",
    "data.workers",
    "debug.",
    "distributed.",
    "evaluation.",
    "mesh.",
    "model.remat",
    "model.unroll",
    "training.accumulation",
    "training.checkpoint_every",
    "training.eval_every",
    "training.keep",
    "training.log_every",
    "training.profile_start",
    "training.profile_steps",
)


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a run is: two runs of equal `settings`, `data` and `vocabulary` are the same."""

    settings: dict[str, Any]  # resolved, as a plain dict
    data: list[str]  # fingerprint of each source's records
    vocabulary: str  # fingerprint of the tokenizer
    versions: dict[str, str]  # of the packages that it runs on
    # What the first parameters were taken from, `starting.Weights.origin`; None: from scratch.
    imported: dict[str, Any] | None = None

    @classmethod
    def of(cls, settings: Settings, data: Sequence[str], vocabulary: str) -> "Meta":
        """Of a run that starts now."""
        packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
        versions = {name: importlib.metadata.version(name) for name in packages}
        versions = {k3m_jax.__name__: k3m_jax.__version__, **versions}
        return cls(dataclasses.asdict(settings), list(data), vocabulary, versions)


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, workdir: epath.PathLike, meta: Meta, keep: int):
        """`keep` is how many of the newest stay, besides the best by held-out loss."""
        self._folder, self._meta = remote.absolute(workdir) / FOLDER, meta
        policies = [
            ocp.checkpoint_managers.LatestN(keep),
            ocp.checkpoint_managers.BestN(
                n=1,
                get_metric_fn=_loss,
                reverse=True,  # the least last: the policy keeps the end of its order
            ),
        ]
        self._manager = _manager(
            self._folder,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # of saves that were killed
        )

    def record_init_source(self, origin: Mapping[str, Any]) -> None:
        """Notes in the meta of a fresh run what its parameters were imported from."""
        self._meta = dataclasses.replace(self._meta, imported=dict(origin))

    def restore(self, abstract_state: State) -> State | None:
        """The newest state that can be read; None in a fresh folder.

        What is damaged is set aside, with a warning.

        Args:
          abstract_state: shape, dtype and sharding of each array, `Program.abstract_state`.

        Raises:
          UserError: the folder holds another run, nothing in it can be read, or the file system
            does not let it be read.
        """
        unreadable: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._restore(step, abstract_state)
            except (ValueError, FileNotFoundError, KeyError, TypeError) as error:
                if jax.process_count() > 1:
                    self._quarantine_and_abort(step, error)
                unreadable[step] = error
                continue
            except OSError as error:
                # The disk's fault, not the checkpoint's: going back would repeat steps for nothing.
                raise UserError(
                    f"{self._folder / str(step)} can't be read at present "
                    f"({_first_line({step: error})}): mend that and run the same command again"
                ) from error
            self._quarantine(unreadable)
            return state
        if unreadable:
            raise UserError(
                f"no checkpoint in {self._folder} can be read ({_first_line(unreadable)}): "
                "start anew in another --workdir, or remove this folder"
            )
        return None

    def save(
        self, step: int, state: State, data: Mapping[str, int], loss: float | None = None
    ) -> None:
        """Copies the state from the devices and returns; the rest is written in the background.

        Args:
          step: steps done.
          state: after them.
          data: where the input stands, as its iterator says.
          loss: on held-out products, if it is known.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                progress=ocp.args.StandardSave(_progress(state)),
                data=ocp.args.JsonSave(dict(data)),
                meta=ocp.args.JsonSave(dataclasses.asdict(self._meta)),
            ),
            # What was not measured ranks last, the newest of it first.
            metrics={"loss": math.inf if loss is None else loss},
        )

    def wait(self) -> None:
        """Returns when all is written; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits likewise, and ends the threads that write."""
        self._manager.close()

    def _restore(self, step: int, abstract_state: State) -> State:
        json = self._manager.restore(
            step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
        )
        meta = Meta(**json.meta)
        self._check(step, json.data, meta)
        arrays = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract_state.params),
                progress=ocp.args.StandardRestore(_progress(abstract_state)),
            ),
        )
        self._meta = dataclasses.replace(self._meta, imported=meta.imported)
        return State(params=arrays.params, **arrays.progress)

    def _check(self, step: int, data: Mapping[str, int], meta: Meta) -> None:
        """Raises UserError where the checkpoint is not of this run."""
        # A setting younger than the run has a default that does as the run did.
        defaults = _flat(dataclasses.asdict(Settings()))
        old, new = defaults | _flat(meta.settings), _flat(self._meta.settings)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and not key.startswith(RESUMABLE_KEYS):
                raise UserError(
                    f"{self._folder.parent} holds a run with {key} = {old.get(key)!r}, not "
                    f"{new.get(key)!r}: set it back, or start in another --workdir"
                )
        for name, key in (("data", "data.sources"), ("vocabulary", "data.tokenizer")):
            if getattr(meta, name) != getattr(self._meta, name):
                raise UserError(
                    f"{self._folder.parent} holds a run on other products or another vocabulary: "
                    f"set {key} back, or start in another --workdir"
                )
        if data != {"next_index": step}:
            raise UserError(
                f"{self._folder / str(step)}: the input stands at {data}, not at step {step}: "
                "the checkpoint is not of this program; start in another --workdir"
            )

    def _quarantine_and_abort(self, step: int, error: Exception) -> None:
        """Sets a checkpoint aside for the next start of several processes.

        Others may have read their part of it and wait: no process can turn to an older one alone.
        """
        if step == min(self._manager.all_steps()):
            return  # there is none to go on from
        folder = self._folder / str(step)
        with contextlib.suppress(FileNotFoundError):  # another process was here first
            folder.rename(folder.with_name(f"unreadable-{step}"))
        raise RuntimeError(
            f"{folder} can't be read ({_first_line({step: error})}): set aside as "
            f"unreadable-{step}; run the same command again to go on from an older checkpoint"
        ) from error

    def _quarantine(self, unreadable: Mapping[int, Exception]) -> None:
        for step, error in unreadable.items():
            folder = self._folder / str(step)
            folder.rename(folder.with_name(f"unreadable-{step}"))
            warnings.warn(
                f"{folder} can't be read ({_first_line({step: error})}): set aside as "
                f"unreadable-{step}, going on from an older checkpoint",
                stacklevel=3,
            )
        if unreadable:
            self._manager.reload()


def load_meta(workdir: epath.PathLike, which: Which = "best") -> Meta:
    """What the run is that wrote a checkpoint; `Settings.from_config` reads its settings.

    Raises:
      UserError: there is no such checkpoint.
    """
    with _manager(_existing(workdir), create=False) as manager:
        step = _find(manager, which)
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    return Meta(**meta)


def load_params(
    workdir: epath.PathLike, which: Which, network: Network, mesh: Mesh
) -> tuple[Params, int]:
    """Parameters and the step of a checkpoint, placed on `mesh` whatever it was written from.

    Args:
      workdir: of the run.
      which: a step, the `latest`, or the `best` by held-out loss (the latest if none was measured).
      network: of the settings that `load_meta` tells.
      mesh: of `parallel.mesh.make_mesh`.

    Raises:
      UserError: there is no such checkpoint.
    """
    boxed = jax.eval_shape(functools.partial(network.init_params, jax.random.key(0)))
    target = shardings.abstract_tree(mesh, boxed)
    with _manager(_existing(workdir), create=False) as manager:
        step = _find(manager, which)
        args = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        return manager.restore(step, args=args).params, step


def _progress(state: State) -> dict[str, Any]:
    """All of a state but its parameters, which are kept apart: evaluation reads them alone."""
    return {name: value for name, value in state._asdict().items() if name != "params"}


def _manager(folder: epath.Path, **options) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(best_fn=_loss, best_mode="min", **options)
    return ocp.CheckpointManager(folder, options=options)


def _loss(metrics: Mapping[str, float]) -> float:
    """A loss that is not a number is the worst."""
    return math.inf if math.isnan(metrics["loss"]) else metrics["loss"]


def _existing(workdir: epath.PathLike) -> epath.Path:
    folder = remote.absolute(workdir) / FOLDER
    if not folder.is_dir():
        raise UserError(f"{workdir} has no {FOLDER}: train first, python -m launch.pretrain --help")
    return folder


def _find(manager: ocp.CheckpointManager, which: Which) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise UserError(f"{manager.directory} has no finished checkpoint yet")
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = manager.best_step()
        measured = best is not None and math.isfinite(_loss(manager.metrics(best)))
        return best if measured else steps[-1]
    if which not in steps:
        raise UserError(f"{manager.directory} has no checkpoint of step {which}, only of {steps}")
    return which


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        # JSON knows no tuples.
        return {prefix: list(tree) if isinstance(tree, tuple) else tree}
    leaves = {}
    for name, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return leaves


def _first_line(errors: Mapping[int, Exception]) -> str:
    error = next(iter(errors.values()))
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
