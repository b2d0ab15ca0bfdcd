"""Region features that a detector computed elsewhere, found by the id of the item.

Three layouts are read (docs/data.md): the TSV of bottom-up-attention tools, one .npz of all
pictures, a folder with one .npz per picture. Only a hash and an offset per row of a TSV are held in
memory. The raw arrays of a picture are image_w, image_h, boxes [n, 4] in pixels, features [n, F],
and either cls_prob [n, C], objects [n] or neither.
"""

import base64
import functools
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from numpy.lib.npyio import NpzFile  # np.load would take other files for one

from k3m_jax.data.catalog.readers import inside
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.modalities.picture import Picture
from k3m_jax.settings import Backbone, UserError

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
REQUIRED = ("image_w", "image_h", "boxes", "features")
ARRAYS = (*REQUIRED, "cls_prob", "objects")
MAX_REGIONS = 36  # of a picture, the most confident ones; of a grid all
PROGRESS = "extraction.json"  # of launch.extract_regions, in its folder
BOM = b"\xef\xbb\xbf"
MAX_ARRAY_BYTES = 1 << 30  # of one array of a picture; a header may declare any number
BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
Raw = Mapping[str, np.ndarray]


class RegionSizes(NamedTuple):
    """What all pictures of one data set must agree in."""

    feature_dim: int  # F
    classes: int  # C; 0 where only `objects`, or nothing, gives classes
    top_classes: int  # c: classes kept per region


class RegionReader:
    """The regions of pictures in a .tsv, a .npz or a folder of .npz; pickles.

    `sizes` are those of the first usable picture; all others must agree with it. `backbone` made
    the regions, if it is known.
    """

    def __init__(self, path: epath.PathLike, items: Iterable[str], top_classes: int):
        """Finds the sizes in the first of `items` that is usable, with at most c `top_classes`.

        Raises UserError: the path is none of the three, or holds regions of none of the items.
        """
        self._find = _open(epath.Path(path))
        progress, self.backbone = epath.Path(path) / PROGRESS, Backbone()
        if progress.exists():
            self.backbone = Backbone(**json.loads(progress.read_text())["backbone"])
        first = problem = None
        for item in items:
            first = first or item
            try:
                raw = self._raw(item)
                if raw is not None and make_regions(raw, 1, 1):
                    self.sizes = _sizes(raw, top_classes)
                    return
            except InvalidRecordError as error:
                problem = problem or f"those of {item!r}: {error.detail}"
        hint = problem or f"its picture ids must be the products' ids, such as {first!r}"
        raise UserError(f"--region_features: {path} has usable regions of no product: {hint}")

    def read(self, item: str, limit: int) -> Picture:
        """The regions of an item's picture, at most `limit`; n = 0 where none were found.

        Raises InvalidRecordError: bad_regions, also where the picture disagrees with `sizes`.
        """
        raw, top_classes = self._raw(item), self.sizes.top_classes
        if raw is not None and (picture := make_regions(raw, limit, top_classes)):
            found = _sizes(raw, top_classes)
            _require(found == self.sizes, f"{found}, but the first picture had {self.sizes}")
            return picture
        return self.none

    @property
    def none(self) -> Picture:
        """The picture of an item of which the detector has nothing, or nothing usable: n = 0."""
        feature_dim, _, top_classes = self.sizes
        boxes, features = np.zeros((0, 4), np.float32), np.zeros((0, feature_dim), np.float16)
        ids, probs = (np.zeros((0, top_classes), dtype) for dtype in (np.int32, np.float16))
        return Picture(b"", ids, boxes, features, probs)

    def _raw(self, item: str) -> Raw | None:
        try:
            return self._find(item)
        except BROKEN as error:
            detail = f"{item}: {type(error).__name__}: {error}"
            raise InvalidRecordError("bad_regions", detail) from error


def region_limit(backbone: Backbone) -> int:
    """How many regions of a picture are kept: of a grid all, and the whole picture."""
    return max(MAX_REGIONS, backbone.grid**2 + 1)


def make_regions(raw: Raw, limit: int, top_classes: int) -> Picture | None:
    """A picture of the `limit` most confident regions, without a JPEG; None where there is no box.

    Without `cls_prob` no confidence is known, and the first `limit` regions are kept. Raises
    InvalidRecordError: bad_regions.
    """
    missing = ", ".join(sorted(set(REQUIRED) - raw.keys()))
    _require(not missing, f"no array {missing}")
    for name in [name for name in ARRAYS if name in raw]:
        kind = raw[name].dtype
        _require(kind.kind in "fiu", f"{name} holds {kind}, not numbers")
    width, height, boxes, features = (raw[name] for name in REQUIRED)
    _require(width.size == height.size == 1, "image_w and image_h are one number each")
    if boxes.ndim and not len(boxes):
        return None
    n, shapes = boxes.size // 4, f"boxes {boxes.shape} and features {features.shape}"
    paired = boxes.shape == (n, 4) and features.ndim == 2 and len(features) == n and features.size
    _require(paired, f"{shapes} don't belong together")
    size = np.array([width.item(), height.item()] * 2, np.float64)
    _require(
        np.isfinite(size).all() and (size > 0).all(),
        f"a picture of {size[0]:g} x {size[1]:g} pixels",
    )
    _require(np.isfinite(boxes).all(), "boxes hold NaN or infinity")
    shares = size.min() > 2 and boxes.min() >= 0 and boxes.max() <= 1
    _require(not shares, "boxes all lie within a pixel: shares of the picture, not pixels?")
    # Detectors overshoot the border by a pixel.
    boxes = np.clip(boxes / size, 0, 1).astype(np.float32)
    ends = (boxes[:, 2:] >= boxes[:, :2]).all()
    _require(ends, "a box ends before it begins: x1, y1, x2, y2 are expected, not width and height")
    inside_picture = (boxes[:, 2:] > boxes[:, :2]).all(-1).any()
    _require(inside_picture, f"no box has an area inside the picture of {size[0]:g} x {size[1]:g}")
    with np.errstate(over="ignore"):
        features = features.astype(np.float16)
    _require(np.isfinite(features).all(), "features hold NaN, or numbers too large for float16")
    kept = np.arange(min(n, limit))
    if "cls_prob" in raw:
        probs = raw["cls_prob"]
        fits = probs.ndim == 2 and len(probs) == n and probs.size
        _require(fits, f"cls_prob {probs.shape} for {n} boxes")
        valid = np.isfinite(probs).all() and (probs >= 0).all() and (probs.max(-1) >= 1e-4).all()
        _require(valid, "cls_prob is not a distribution over classes")
        kept = np.sort(np.argsort(-probs.max(-1), kind="stable")[:limit])
        class_ids = np.argsort(-probs[kept], kind="stable")[:, :top_classes].astype(np.int32)
        class_probs = np.take_along_axis(probs[kept], class_ids, -1).astype(np.float16)
    else:
        objects = raw.get("objects", np.zeros((n, 0), np.int64))
        fits = objects.shape[:1] == (n,) and (objects >= 0).all()
        _require(fits, f"objects {objects.shape} for {n} boxes, or a negative class")
        class_ids = objects.reshape(n, -1)[kept, :1].astype(np.int32)
        class_probs = np.ones(class_ids.shape, np.float16)
    return Picture(b"", class_ids, boxes[kept], features[kept], class_probs)


def _sizes(raw: Raw, top_classes: int) -> RegionSizes:
    classes = raw["cls_prob"].shape[-1] if "cls_prob" in raw else 0
    kept = min(top_classes, classes) if classes else int("objects" in raw)
    return RegionSizes(raw["features"].shape[-1], classes, kept)


def _open(path: epath.Path) -> Callable[[str], Raw | None]:
    """What gives an item's raw arrays, or raises one of BROKEN; None where it has none."""
    if not path.exists():
        raise UserError(f"--region_features: {path} does not exist")
    if path.is_dir():
        return functools.partial(_read_own_file, path)
    if path.suffix == ".npz":
        _archive.cache_clear()  # it may have been written again
        try:
            _archive(path)
        except BROKEN as error:
            raise UserError(f"--region_features: {path} is no readable .npz: {error}") from error
        return functools.partial(_read_from_archive, path)
    if path.suffix == ".tsv":
        return functools.partial(_read_row, path, *_index(path))
    raise UserError(f"--region_features: {path} is neither a .tsv, a .npz nor a folder of .npz")


def _read_own_file(folder: epath.Path, item: str) -> Raw | None:
    path = inside(folder, f"{item}.npz")
    if not path.exists():
        return None
    with path.open("rb") as file, NpzFile(file) as arrays:
        return {name: _array(arrays, name) for name in ARRAYS if name in arrays.files}


def _array(arrays: NpzFile, key: str) -> np.ndarray:
    """One array of an archive; raises ValueError where it is larger than any picture's."""
    name = key if key in arrays.zip.namelist() else f"{key}.npy"
    if (size := arrays.zip.getinfo(name).file_size) > MAX_ARRAY_BYTES:
        raise ValueError(f"{key} has {size:,} bytes, more than {MAX_ARRAY_BYTES:,}")
    return arrays[key]


@functools.lru_cache(1)  # each process opens its own
def _archive(path: epath.Path) -> tuple[NpzFile, frozenset[str]]:
    arrays = NpzFile(path.open("rb"))  # allow_pickle is off
    return arrays, frozenset(arrays.files)


def _read_from_archive(path: epath.Path, item: str) -> Raw | None:
    """Of one .npz, whose arrays are named `<id>/<array>`."""
    arrays, names = _archive(path)
    found = {name: _array(arrays, key) for name in ARRAYS if (key := f"{item}/{name}") in names}
    return found if "boxes" in found else None


def _index(path: epath.Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The columns of a TSV, the sorted hashes of its ids, and the bytes where their rows begin.

    A first line that begins with `image_id` names the columns; else `COLUMNS`, the last optional.
    """
    columns, starts, keys, offset = COLUMNS, [], [], 0
    with path.open("rb") as file:
        for line in file:
            start = len(BOM) if offset == 0 and line.startswith(BOM) else 0
            name = line[start:].split(b"\t", 1)[0].strip()
            if offset == 0 and (named := _column_names(line))[0] == COLUMNS[0]:
                columns = named
            elif line.strip():
                starts.append(offset + start)
                keys.append(_hash(name))
            offset += len(line)
    if missing := set(COLUMNS[:6]) - set(columns):
        raise UserError(f"--region_features: {path} has no column {', '.join(sorted(missing))}")
    # Of rows with the same id the first is read.
    sorted_keys, first = np.unique(np.array(keys, np.uint64), return_index=True)
    return columns, sorted_keys, np.array(starts, np.int64)[first]


def _read_row(
    path: epath.Path, columns: tuple[str, ...], keys: np.ndarray, starts: np.ndarray, item: str
) -> Raw | None:
    at = int(np.searchsorted(keys, key := _hash(item.encode())))
    if at == len(keys) or keys[at] != key:
        return None
    with path.open("rb") as file:
        file.seek(int(starts[at]))
        cells = file.readline().rstrip(b"\r\n").split(b"\t")
    if cells[0].strip() != item.encode():
        return None
    fits = len(COLUMNS) - 1 <= len(cells) <= len(columns)
    _require(fits, f"{len(cells)} columns, not {', '.join(columns)}")
    row = dict(zip(columns, cells, strict=False))
    _require((n := int(row["num_boxes"])) >= 0, f"num_boxes is {n}")
    raw = {key: np.float64(row[key]) for key in ARRAYS[:2]}
    for name in ARRAYS[2:]:
        if row.get(name) or (name in row and (name in REQUIRED or not n)):
            data = _decoded(row[name], name, n)
            # Classes are written as int64 by most tools, as int32 by some.
            objects = np.int64 if len(data) == 8 * n else np.int32
            array = np.frombuffer(data, objects if name == "objects" else np.float32)
            raw[name] = array.reshape(n, -1) if n else np.zeros((0, 4))
    return raw


def _column_names(line: bytes) -> tuple[str, ...]:
    """Of a first line, whatever its case and its quotes."""
    cells = line.removeprefix(BOM).decode(errors="replace").strip().split("\t")
    return tuple(cell.strip().strip("\"'").lower() for cell in cells)


def _decoded(cell: bytes, name: str, n: int) -> bytes:
    """The bytes of an array of n regions; raises ValueError for what is no float32 of them."""
    try:
        data = base64.b64decode(cell, validate=True)
    except ValueError as error:
        raise ValueError(f"{name} begins {cell[:12]!r}: {error}") from error
    if name == "boxes" and len(data) != 16 * n:
        raise ValueError(f"boxes: {len(data)} bytes, not 16 for each of {n}, as float32")
    if n and len(data) % (4 * n):
        raise ValueError(f"{name}: {len(data)} bytes are no float32 of {n} regions")
    if name == "features" and _is_half(data):
        raise ValueError("features look like float16: float32 is expected")
    return data


def _is_half(data: bytes) -> bool:
    """Whether numbers are likely as float16 and unlikely as float32."""

    def likely(dtype: type) -> float:
        x = np.abs(np.frombuffer(data, dtype).astype(np.float64))
        return float(((x == 0) | ((x > 1e-4) & (x < 1e4))).mean()) if len(x) else 1.0

    small = not (np.abs(np.frombuffer(data, np.float32)) > 1e4).any()
    return small and likely(np.float16) > 0.99 and likely(np.float32) < 0.9


def _hash(item: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(item, digest_size=8).digest(), "big"))


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvalidRecordError("bad_regions", detail)
