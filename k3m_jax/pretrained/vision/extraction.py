"""The pictures of a dump to a folder of region features: what `launch.extract_regions` does."""

import collections
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from k3m_jax.data.catalog.readers import CatalogReader, RawLine, inside
from k3m_jax.data.catalog.region_features import PROGRESS
from k3m_jax.data.records import InvalidRecordError, RejectedLine
from k3m_jax.data.workers import ordered_map
from k3m_jax.modalities import pixels
from k3m_jax.pretrained.vision import VisionBackbone
from k3m_jax.settings import UserError

REJECTS = "rejects.jsonl"
BATCH = 32  # pictures at a time, where nothing else is wanted


class Seen(NamedTuple):
    """What a line of a dump shows: a picture, or a reason why not."""

    item: str
    path: str  # "" where it names no picture
    outcome: str  # what it counts as
    picture: np.ndarray | None = None  # uint8 [S, S, 3]
    reject: RejectedLine | None = None


@dataclasses.dataclass
class Progress:
    """How far an extraction is, kept in the folder next to what made it."""

    backbone: dict[str, Any]  # `settings.Backbone`
    batch: int  # by which the last digits of features differ
    lines: int = 0  # of the dump, that are done with
    digest: str = ""  # of these lines' ids and pictures
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    reject_bytes: int = 0  # of the file of rejects


def extract(
    backbone: VisionBackbone, catalog: CatalogReader, output: pathlib.Path, batch: int, workers: int
) -> str:
    """Writes `<id>.npz` for each product with a picture; returns counts in words.

    `batch` pictures are looked at together, and progress is kept after each batch: an extraction
    that was killed goes on, and leaves the same files, byte for byte, as one that was not. Raises
    UserError where `output` holds something else, or the dump has changed where it was read.
    """
    done = _begin(output, Progress(dataclasses.asdict(backbone.identity), batch))
    counts, ids, digest = collections.Counter(done.counts), set[bytes](), hashlib.blake2b()
    lines = catalog.lines()
    for raw in itertools.islice(lines, done.lines):
        _note(_look(catalog, raw, 0), ids, digest)
    if done.lines and digest.hexdigest() != done.digest:
        changed = f"the dump has changed within its first {done.lines} lines"
        raise UserError(f"--output: {output} was begun from other products: {changed}")
    look = functools.partial(_look, catalog, size=backbone.identity.size)
    seen = ordered_map(look, lines, workers)
    bar = tqdm(None, "pictures", sum(1 for _ in catalog.lines()), initial=done.lines, unit=" lines")
    with bar, (output / REJECTS).open("r+b") as rejects:
        rejects.truncate(done.reject_bytes)
        rejects.seek(done.reject_bytes)
        while group := list(itertools.islice(seen, batch)):
            fresh = [each for each in group if _note(each, ids, digest)]
            counts["repeated_id"] += len(group) - len(fresh)
            for each in fresh:
                counts[each.outcome] += 1
                if each.reject:
                    line = json.dumps(dataclasses.asdict(each.reject), ensure_ascii=False)
                    rejects.write(f"{line}\n".encode())
            shown = [each for each in fresh if each.picture is not None]
            regions = backbone(np.stack([each.picture for each in shown])) if shown else ()
            for each, arrays in zip(shown, regions, strict=True):
                _write_arrays(output, each.item, arrays)
            rejects.flush()
            done.lines, done.digest = done.lines + len(group), digest.hexdigest()
            done.counts, done.reject_bytes = dict(sorted(counts.items())), rejects.tell()
            _write(output / PROGRESS, json.dumps(dataclasses.asdict(done), indent=1).encode())
            bar.update(len(group))
    return _report(output, done)


def _begin(output: pathlib.Path, fresh: Progress) -> Progress:
    """The progress of what stands in `output`; UserError where that is something else."""
    output.mkdir(parents=True, exist_ok=True)
    path, found = output / PROGRESS, fresh
    if path.exists():
        found = Progress(**json.loads(path.read_text()))
        if (found.backbone, found.batch) != (fresh.backbone, fresh.batch):
            made = f"{found.backbone} by {found.batch} pictures at a time"
            wanted = f"{fresh.backbone} by {fresh.batch}"
            raise UserError(f"--output: {output} holds features of {made}, not of {wanted}")
    elif any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty, and holds no region features")
    else:
        _write(path, json.dumps(dataclasses.asdict(fresh), indent=1).encode())
    (output / REJECTS).touch()
    return found


def _look(catalog: CatalogReader, raw: RawLine, size: int) -> Seen:
    """What a line shows; its picture is not read where `size` is 0."""
    product = catalog.read(raw)
    if isinstance(product, RejectedLine):
        return Seen("", "", product.reason, reject=product)
    path = product.sources["image"]
    if not path or not size:
        return Seen(product.id, path, "no_picture")
    try:
        inside(catalog.folder, f"{product.id}.npz")  # an id that can name a file
        data = catalog.read_picture(path)
        if not data:
            return Seen(product.id, path, "picture_not_found")
        return Seen(product.id, path, "pictures", pixels.squeeze(data, size))
    except InvalidRecordError as error:
        reject = RejectedLine(raw.file, raw.line, *error.args)
        return Seen(product.id, path, reject.reason, reject=reject)


def _note(seen: Seen, ids: set[bytes], digest: Any) -> bool:
    """Notes that a line was seen; False where its id was, in an earlier line."""
    digest.update(json.dumps([seen.item, seen.path]).encode())
    key = hashlib.blake2b(seen.item.encode(), digest_size=16).digest()
    known = bool(seen.item) and key in ids
    ids.add(key)
    return not known


def _write_arrays(output: pathlib.Path, item: str, arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    path = output / f"{item}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, file.getvalue(), output / ".partial")


def _write(path: pathlib.Path, data: bytes, partial: pathlib.Path | None = None) -> None:
    """Whole or not at all."""
    partial = partial or path.with_name(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _report(output: pathlib.Path, done: Progress) -> str:
    others = {name: n for name, n in done.counts.items() if name != "pictures" and n}
    return f"""\
{done.counts.get("pictures", 0):,} pictures of {done.lines:,} lines: {output}
  without    {json.dumps(others)}: {output / REJECTS}
next: python -m launch.build_shards --front_end=regions --region_features={output} …"""
