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

REJECTS, PARTIAL = "rejects.jsonl", ".partial"
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

    def write(self, output: pathlib.Path) -> None:
        """Keeps it; what was done until now will not be done again."""
        _write(output, PROGRESS, json.dumps(dataclasses.asdict(self), indent=1).encode())


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
        _note(_look(catalog, output, 0, raw), ids, digest)
    if done.lines and digest.hexdigest() != done.digest:
        changed = f"the dump has changed within its first {done.lines} lines"
        raise UserError(f"--output: {output} was begun from other products: {changed}")
    look = functools.partial(_look, catalog, output, backbone.identity.size)
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
                _write_arrays(output, f"{each.item}.npz", arrays)
            rejects.flush()
            done.lines, done.digest = done.lines + len(group), digest.hexdigest()
            done.counts, done.reject_bytes = dict(sorted(counts.items())), rejects.tell()
            done.write(output)
            bar.update(len(group))
    others = {name: n for name, n in done.counts.items() if name != "pictures" and n}
    return f"""\
{done.counts.get("pictures", 0):,} pictures of {done.lines:,} lines: {output}
  without    {json.dumps(others)}: {output / REJECTS}
next: python -m launch.build_shards --format=jsonl --input={catalog.folder} \\
          --front_end=regions --region_features={output} --output=DATA"""


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
    elif any(each.name != PARTIAL for each in output.iterdir()):
        raise UserError(f"--output: {output} is not empty, and holds no region features")
    found.write(output)
    (output / REJECTS).touch()
    return found


def _look(catalog: CatalogReader, output: pathlib.Path, size: int, raw: RawLine) -> Seen:
    """What a line shows; its picture is not read where `size` is 0."""
    product = catalog.read(raw)
    if isinstance(product, RejectedLine):
        return Seen("", "", product.reason, reject=product)
    images = product.sources["image"]
    path = images[0] if images and isinstance(images[0], str) else ""
    if not images or not size:
        return Seen(product.id, path, "no_picture")
    repairs: list[str] = []
    try:
        inside(output, f"{product.id}.npz").exists()  # an id that can name a file
        look = functools.partial(pixels.squeeze, size=size)
        picture, _ = catalog.first_picture(images, look, repairs)
        if picture is not None:
            return Seen(product.id, path, "pictures", picture)
        reason, _, detail = repairs[-1].partition(": ")
        if reason == "picture_not_found":
            return Seen(product.id, path, reason)
        raise InvalidRecordError(reason, detail)
    except (InvalidRecordError, OSError) as error:
        known = isinstance(error, InvalidRecordError)  # else a name that is too long
        reasons = error.args if known else ("outside_folder", str(error))
        reject = RejectedLine(raw.file, raw.line, *reasons)
        return Seen(product.id, path, reject.reason, reject=reject)


def _note(seen: Seen, ids: set[bytes], digest: Any) -> bool:
    """Notes that a line was seen; False where its id was, in an earlier line."""
    digest.update(json.dumps([seen.item, seen.path]).encode())
    key = hashlib.blake2b(seen.item.encode(), digest_size=16).digest()
    known = bool(seen.item) and key in ids
    ids.add(key)
    return not known


def _write_arrays(output: pathlib.Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    _write(output, name, file.getvalue())


def _write(output: pathlib.Path, name: str, data: bytes) -> None:
    """Whole or not at all."""
    (output / PARTIAL).write_bytes(data)
    os.replace(output / PARTIAL, output / name)
