"""A dump of products to vectors: what `launch.embed` does."""

import collections
import dataclasses
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath
from tqdm import tqdm

from k3m_jax import modalities
from k3m_jax.data.build.record_builder import RecordBuilder
from k3m_jax.data.catalog.readers import CatalogReader
from k3m_jax.data.catalog.region_features import RegionReader
from k3m_jax.data.records import Product, Record, RejectedLine
from k3m_jax.data.workers import ordered_map
from k3m_jax.pretrained.vision.extraction import BATCH, extract
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import Image, UserError


def embed_dump(
    model: ProductModel,
    catalog: CatalogReader,
    output: epath.Path,
    *,
    region_features: str = "",
    workers: int = 0,
) -> str:
    """Embeds every usable product of a dump, and sets the others aside; returns counts in words.

    `output` is an .npz with `ids` [N] and `vectors` float32 [N, D] in the dump's order; rejects and
    repairs are written next to it. `region_features`, a detector's, are for a model that looks at
    regions (docs/data.md); without them its own frozen model looks at the pictures first. UserError
    where they don't fit it, or that can't be opened. `workers` processes read; 0 is this one.
    """
    image = model.network.settings.image
    if image.front_end == "regions" and not region_features:
        with tempfile.TemporaryDirectory() as folder:
            extract(model.backbone, catalog, pathlib.Path(folder), BATCH, workers)
            return embed_dump(model, catalog, output, region_features=folder, workers=workers)
    build = _record_builder(catalog, image, region_features)
    active = modalities.active(model.network.settings)
    ids, rejects, repairs, repaired = {}, [], [], collections.Counter()
    missing = collections.Counter({modality.name: 0 for modality in active})

    def usable() -> Iterator[Record]:
        lines, places = itertools.tee(catalog.lines())
        outcomes = zip(places, ordered_map(build, lines, workers), strict=True)
        count = sum(1 for _ in catalog.lines())
        for raw, outcome in tqdm(outcomes, "embedding", count, unit=" records"):
            if isinstance(outcome, RejectedLine):
                rejects.append(outcome)
            elif (record := outcome.record).id in ids:
                detail = f"an earlier record has id {record.id!r}"
                rejects.append(RejectedLine(raw.file, raw.line, "repeated_id", detail))
            else:
                ids[record.id] = True
                repaired.update(repair.partition(": ")[0] for repair in outcome.repairs)
                repairs.append(outcome.repair_lines())
                missing.update(m.name for m in active if not m.is_present(record.contents[m.name]))
                yield record

    vectors = model.embed(usable())
    with output.open("wb") as file:
        np.savez(file, ids=np.array(list(ids), np.str_), vectors=vectors)
    lines = (json.dumps(vars(reject), ensure_ascii=False) + "\n" for reject in rejects)
    reasons = collections.Counter(reject.reason for reject in rejects).most_common()
    return f"""\
{len(ids):,} products as {model.width} numbers each: {output}
  missing    {json.dumps(missing)}
  repaired   {json.dumps(repaired)}{_written(output, "repairs", repairs)}
  set aside  {json.dumps(dict(reasons))}{_written(output, "rejects", lines)}"""


def _written(output: epath.Path, kind: str, lines: Iterable[str]) -> str:
    """Writes lines next to the output, where there are any; returns where, in words."""
    path, text = output.with_suffix(f".{kind}.jsonl"), "".join(lines)
    path.unlink(missing_ok=True)  # of an earlier dump
    if not text:
        return ""
    path.write_text(text, encoding="utf-8")
    return f": {path}"


def _record_builder(catalog: CatalogReader, image: Image, region_features: str) -> RecordBuilder:
    """What makes records as the model wants them, without classes: these serve training alone."""
    if region_features and image.front_end == "patches":
        raise UserError("--region_features: the model looks at patches, and takes none")
    build = RecordBuilder(catalog, image.side, image.patch_size)
    if not region_features:
        return build
    lines = map(catalog.read, catalog.lines())
    ids = (line.id for line in lines if isinstance(line, Product))
    regions = RegionReader(region_features, ids, image.top_classes)
    if (width := regions.sizes.feature_dim) != image.feature_dim:
        found = f"{region_features} has {width} numbers per region, not {image.feature_dim}"
        raise UserError(f"--region_features: {found}: use the detector of the model's training")
    return dataclasses.replace(build, regions=regions)
