"""Region features that a detector computed elsewhere, found by the id of the item.

Three layouts are read (docs/data.md): the TSV of bottom-up-attention tools, one .npz of all
pictures, a folder with one .npz per picture. They stay where they are: of a TSV only a hash and an
offset per row are held, so that a worker reads just the rows of its own items.
"""

import abc
import base64
import binascii
import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np
from etils import epath
from numpy.lib.npyio import NpzFile as NpzArchive  # np.load would take other files for one

from k3m_jax.data.catalog.readers import inside
from k3m_jax.data.records import DetectorOutput, InvalidRecordError
from k3m_jax.settings import UserError

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
NPZ_ARRAYS = ("image_w", "image_h", "boxes", "features", "cls_prob", "objects")
BROKEN_NPZ = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class RegionSizes:
    """What all pictures of one data set must agree in."""

    feature_dim: int  # F
    classes: int  # C; 0 where only `objects`, or nothing, tells classes
    top_classes: int  # c: classes kept per region

    @classmethod
    def of(cls, raw: dict[str, np.ndarray], top_classes: int) -> "RegionSizes":
        """The sizes of one picture's arrays; at most `top_classes` are kept."""
        classes = raw["cls_prob"].shape[-1] if "cls_prob" in raw else 0
        kept = min(top_classes, classes) if classes else int("objects" in raw)
        return cls(raw["features"].shape[-1], classes, kept)


class RegionFeatures(abc.ABC):
    """A file or folder of region features."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    @abc.abstractmethod
    def raw(self, item: str) -> dict[str, np.ndarray] | None:
        """The arrays of an item's picture as they lie in the file; None where it has none.

        Keys: image_w, image_h, boxes [n, 4] in pixels, features [n, F], and either cls_prob [n, C],
        objects [n] or neither. Raises RejectedRecord(bad_regions).
        """

    def read(self, item: str, limit: int, sizes: RegionSizes) -> DetectorOutput | None:
        """The regions of an item's picture, at most `limit`; None where the file has none of it.

        Raises:
          RejectedRecord: bad_regions, also where it disagrees with `sizes`.
        """
        raw = self.raw(item)
        if raw is None or len(raw["boxes"]) == 0:
            return None
        if (found := RegionSizes.of(raw, sizes.top_classes)) != sizes:
            raise _bad(f"{found}, but the first picture had {sizes}")
        return make_regions(raw, limit, sizes.top_classes)

    def sizes(self, item: str, top_classes: int) -> RegionSizes | None:
        """The sizes of an item's picture; None where it has none that can be used."""
        try:
            raw = self.raw(item)
            if raw is None or len(raw["boxes"]) == 0:
                return None
            make_regions(raw, 1, 1)
        except InvalidRecordError:
            return None
        return RegionSizes.of(raw, top_classes)


def make_regions(raw: dict[str, np.ndarray], limit: int, top_classes: int) -> DetectorOutput:
    """Checks, picks the most confident regions and their most probable classes, and shrinks.

    Without `cls_prob` nothing tells confidence, and the first `limit` regions are kept.

    Raises:
      RejectedRecord: bad_regions.
    """
    boxes, features = raw["boxes"], raw["features"]
    n = len(boxes)
    if boxes.shape != (n, 4) or features.ndim != 2 or len(features) != n:
        raise _bad(f"boxes {boxes.shape} and features {features.shape} don't belong together")
    width, height = (float(raw[key].item()) for key in ("image_w", "image_h"))
    if not (np.isfinite([width, height]).all() and width > 0 and height > 0):
        raise _bad(f"a picture of {width:g} x {height:g} pixels")
    if not np.isfinite(boxes).all():
        raise _bad("boxes hold NaN or infinity")
    # Detectors overshoot the border by a pixel.
    boxes = np.clip(boxes / np.array([width, height, width, height]), 0, 1).astype(np.float32)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise _bad("a box ends before it begins")
    with np.errstate(over="ignore"):
        features = features.astype(np.float16)
    if not np.isfinite(features).all():
        raise _bad("features hold NaN, or numbers too large for float16")
    if "cls_prob" in raw:
        probs = raw["cls_prob"]
        if probs.ndim != 2 or len(probs) != n:
            raise _bad(f"cls_prob {probs.shape} for {n} boxes")
        if not np.isfinite(probs).all() or (probs < 0).any() or (probs.max(-1) < 1e-4).any():
            raise _bad("cls_prob is not a distribution over classes")
        kept = np.sort(np.argsort(-probs.max(-1), kind="stable")[:limit])
        class_ids = np.argsort(-probs[kept], kind="stable")[:, :top_classes].astype(np.int32)
        class_probs = np.take_along_axis(probs[kept], class_ids, -1).astype(np.float16)
    else:
        kept = np.arange(min(n, limit))
        objects = raw.get("objects", np.zeros((n, 0), np.int64))
        if len(objects) != n or (objects < 0).any():
            raise _bad(f"objects {objects.shape} for {n} boxes, or a negative class")
        class_ids = objects.reshape(n, -1)[kept, :1].astype(np.int32)
        class_probs = np.ones(class_ids.shape, np.float16)
    return DetectorOutput(boxes[kept], features[kept], class_ids, class_probs)


def first_sizes(features: RegionFeatures, items: Iterable[str], top_classes: int) -> RegionSizes:
    """The sizes of the first of `items` whose picture can be used; all others must agree with it.

    Raises:
      UserError: there is none.
    """
    first, count = None, 0
    for item in items:
        if sizes := features.sizes(item, top_classes):
            return sizes
        first, count = first or item, count + 1
    raise UserError(
        f"--region_features: {features.path} has usable regions for none of {count} products: its "
        f"picture ids must be the products' ids, such as {first!r}"
    )


def open_region_features(path: epath.PathLike) -> RegionFeatures:
    """Opens a .tsv, a .npz or a folder of .npz; raises UserError where it is none of them."""
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"--region_features: {path} does not exist")
    if path.is_dir():
        return NpzFolder(path)
    if path.suffix == ".npz":
        return NpzFile(path)
    if path.suffix == ".tsv":
        return RegionTsv(path)
    raise UserError(f"--region_features: {path} is neither a .tsv, a .npz nor a folder of .npz")


class RegionTsv(RegionFeatures):
    """The TSV of bottom-up-attention tools: one picture a line, arrays as base64.

    A first line whose first cell is `image_id` names the columns; else they are `COLUMNS`, the last
    of them optional.
    """

    def __init__(self, path: epath.PathLike):
        super().__init__(path)
        self.columns, starts, keys = COLUMNS, [], []
        with self.path.open("rb") as file:
            offset = 0
            for line in file:
                name = line.split(b"\t", 1)[0].strip()
                if offset == 0 and name == b"image_id":
                    self.columns = tuple(line.decode().strip().split("\t"))
                elif line.strip():
                    starts.append(offset)
                    keys.append(_hash(name))
                offset += len(line)
        if missing := set(COLUMNS[:6]) - set(self.columns):
            raise UserError(f"--region_features: {path} has no column {', '.join(sorted(missing))}")
        # Of rows with the same id the first is read.
        self._keys, first = np.unique(np.array(keys, np.uint64), return_index=True)
        self._starts = np.array(starts, np.int64)[first]

    def raw(self, item: str) -> dict[str, np.ndarray] | None:
        """The arrays of the row whose first cell is the item's id."""
        key = _hash(item.encode())
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        with self.path.open("rb") as file:
            file.seek(int(self._starts[at]))
            cells = file.readline().rstrip(b"\r\n").split(b"\t")
        if cells[0].strip() != item.encode():
            return None
        if not len(COLUMNS) - 1 <= len(cells) <= len(self.columns):
            raise _bad(f"{len(cells)} columns, not {', '.join(self.columns)}")
        return _decode_row(dict(zip(self.columns, cells, strict=False)))


class NpzFile(RegionFeatures):
    """One .npz whose arrays are named `<id>/<array>`, the arrays those of `RegionFeatures.raw`."""

    def raw(self, item: str) -> dict[str, np.ndarray] | None:
        """The arrays whose names begin with the item's id."""
        if f"{item}/boxes" not in self._names:
            return None
        return _read_npz(self._file, f"{item}/")

    def __init__(self, path: epath.PathLike):
        super().__init__(path)
        try:
            self._file = NpzArchive(self.path.open("rb"))
        except BROKEN_NPZ as error:
            raise UserError(f"--region_features: {path} is no readable .npz: {error}") from error
        self._names = frozenset(self._file.files)

    def __reduce__(self) -> tuple:
        return NpzFile, (self.path,)  # an open file stays in its own process


class NpzFolder(RegionFeatures):
    """A folder of `<id>.npz`, the arrays those of `RegionFeatures.raw`."""

    def raw(self, item: str) -> dict[str, np.ndarray] | None:
        """The arrays of the item's own file."""
        path = inside(self.path, f"{item}.npz")
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, NpzArchive(file) as arrays:
                return _read_npz(arrays, "")
        except BROKEN_NPZ as error:
            raise _bad(f"{item}.npz: {error}") from error


def _read_npz(arrays: NpzArchive, prefix: str) -> dict[str, np.ndarray]:
    names = [n for n in NPZ_ARRAYS if prefix + n in arrays.files]
    if missing := set(NPZ_ARRAYS[:4]) - set(names):
        raise _bad(f"no array {', '.join(sorted(missing))}")
    try:
        raw = {name: arrays[prefix + name] for name in names}  # allow_pickle is off
    except BROKEN_NPZ as error:
        raise _bad(f"{type(error).__name__}: {error}") from error
    for name, array in raw.items():
        if array.dtype.kind not in "fiu":
            raise _bad(f"{name} holds {array.dtype}, not numbers")
    if any(raw[n].size != 1 for n in NPZ_ARRAYS[:2]):
        raise _bad("image_w and image_h are one number each")
    return raw


def _decode_row(row: dict[str, bytes]) -> dict[str, np.ndarray]:
    try:
        n = int(row["num_boxes"])
        raw = {key: np.float64(row[key]) for key in ("image_w", "image_h")}
        data = {
            key: base64.b64decode(row[key], validate=True)
            for key in ("boxes", "features", "cls_prob", "objects")
            if key in row
        }
    except (ValueError, binascii.Error) as error:
        raise _bad(str(error)) from error
    if n < 0:
        raise _bad(f"num_boxes is {n}")
    if n == 0:
        return {"boxes": np.zeros((0, 4))}
    for key, value in data.items():
        unit = 16 * n if key == "boxes" else 4 * n
        if not value or len(value) % unit or (key == "boxes" and len(value) != unit):
            raise _bad(f"{key}: {len(value)} bytes are no float32 rows of {n} boxes")
        if key == "objects":  # written as int64 by most tools, as int32 by some
            raw[key] = np.frombuffer(value, np.int64 if len(value) == 8 * n else np.int32)
        else:
            raw[key] = np.frombuffer(value, np.float32).reshape(n, -1)
    return raw


def _hash(item: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(item, digest_size=8).digest(), "big"))


def _bad(detail: str) -> InvalidRecordError:
    return InvalidRecordError("bad_regions", detail)
