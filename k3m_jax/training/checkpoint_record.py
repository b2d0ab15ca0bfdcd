"""What a checkpoint says of itself: which run, which step, and the digest of every array in it.

It is the item `meta` of a checkpoint, one JSON object under a seal, so that an array of another
step, or a changed letter of the record itself, is found out.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
from etils import epath

import k3m_jax
from k3m_jax.data.store import remote
from k3m_jax.settings import Settings

META = "meta/metadata"  # within a checkpoint; written by Orbax, read without it
HELD_OUT = "held_out.json"  # the loss on held-out products, measured once the checkpoint is there
FORMER_LOSS = "metrics/metrics"  # where checkpoints without a record keep it

# Settings that may change when a run is resumed: they do not change what is learned, or change
# rounding and noise alone (packing; accumulation, with which a batch fits fewer devices).
RESUMABLE = re.compile(
    r"(debug|distributed|evaluation|mesh|packing)\."
    r"|data\.(threads|unreadable|valid_corruption|valid_split|workers)"
    r"|model\.(remat|unroll)"
    r"|training\.(accumulation|checkpoint_every|eval_every|keep|log_every|profile_)"
)


class DamagedError(Exception):
    """A checkpoint that does not hold what was saved, with the reason."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a run is: two runs of equal `settings`, `data` and `vocabulary` are the same."""

    settings: dict[str, Any]  # resolved, as JSON has them
    data: list[str]  # fingerprint of each source's records
    vocabulary: str  # fingerprint of the tokenizer
    versions: dict[str, str]  # of the packages that it runs on
    # What the first parameters were read from (`read_init_from`); None: from scratch.
    imported: dict[str, Any] | None = None

    @classmethod
    def of(cls, settings: Settings, data: Sequence[str], vocabulary: str) -> Self:
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


@dataclasses.dataclass(frozen=True)
class Record:
    """A checkpoint's own account of itself."""

    meta: Meta
    step: int
    digests: Mapping[str, str] | None = None  # by array; None: written before there were any

    def to_json(self) -> dict[str, Any]:
        """As it is written: the fields of `meta`, and the rest under `record`."""
        written = dataclasses.asdict(self.meta)
        record = {"step": self.step, "digests": dict(self.digests or {})}
        # Sealed as JSON will give it back.
        written = json.loads(json.dumps({**written, "record": record}))
        written["record"]["seal"] = _seal(written)
        return written

    @classmethod
    def read(cls, folder: epath.Path) -> Self:
        """That of a checkpoint's folder, whose name is its step.

        Raises DamagedError for a record that is not as it was written, or of another step, and
        OSError where it can't be read.
        """
        step = int(folder.name)
        try:
            written = json.loads((folder / META).read_bytes())
            record = written.pop("record", None)
            if record is None:  # written before there were records
                return cls(Meta(**written), step)
            seal = record.pop("seal")
            if seal != _seal({**written, "record": record}):
                raise ValueError("its record is not as it was written")
            if (saved := record.pop("step")) != step:
                raise ValueError(f"it is the checkpoint of step {saved}")
            return cls(Meta(**written), step, **record)
        except FileNotFoundError as error:
            raise DamagedError(f"{META} is missing") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(f"{META}: {error}") from error

    def verify(self, found: Mapping[str, str]) -> None:
        """Compares digests of restored arrays, some or all; raises DamagedError.

        Nothing is compared where the checkpoint was written before there were digests.
        """
        if self.digests is None:
            return
        for name, digest in found.items():
            if (saved := self.digests.get(name)) != digest:
                raise DamagedError(f"the array {name} is {digest}, but {saved} was saved")


def _seal(written: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def write_loss(folder: epath.Path, loss: float | None) -> None:
    """Records the held-out loss of a finished checkpoint; None where it is not a number."""
    written = {"step": int(folder.name), "loss": loss}
    remote.publish(folder / HELD_OUT, json.dumps({**written, "seal": _seal(written)}))


def read_loss(folder: epath.Path) -> tuple[bool, float | None]:
    """Whether a checkpoint was measured on held-out products, and its loss.

    One whose loss can't be read counts as not measured: it can be measured again.
    """
    try:
        if not (folder / HELD_OUT).exists():
            return True, float(json.loads((folder / FORMER_LOSS).read_bytes())["loss"])
        written = json.loads((folder / HELD_OUT).read_bytes())
        if written.pop("seal") != _seal(written) or written["step"] != int(folder.name):
            return False, None
        return True, written["loss"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False, None
