"""A dump of products to vectors: what `launch.embed` does."""

import collections
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from k3m_jax.data.build.record_builder import BuiltRecord, RecordBuilder
from k3m_jax.data.catalog.readers import CatalogReader, RawLine, open_catalog
from k3m_jax.data.catalog.region_features import first_sizes, open_region_features
from k3m_jax.data.records import InvalidRecordError, RejectedLine
from k3m_jax.data.workers import ordered_map
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import Image, UserError


@dataclasses.dataclass
class Embedded:
    """What became of a dump."""

    vectors: np.ndarray  # float32 [N, D]
    ids: list[str] = dataclasses.field(default_factory=list)  # N, in the dump's order
    missing: collections.Counter[str] = dataclasses.field(
        default_factory=lambda: collections.Counter(picture=0, title=0, triples=0)
    )
    rejects: list[RejectedLine] = dataclasses.field(default_factory=list)

    def save(self, output: epath.Path) -> None:
        """Writes `ids` and `vectors` as .npz and, where there are any, the rejects beside it."""
        with output.open("wb") as file:
            np.savez(file, ids=np.array(self.ids, np.str_), vectors=self.vectors)
        path = rejects_path(output)
        path.unlink(missing_ok=True)  # of an earlier dump
        if self.rejects:
            lines = (json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in self.rejects)
            path.write_text("\n".join([*lines, ""]), encoding="utf-8")

    def report(self, output: epath.Path) -> str:
        """The counts, as building tells them."""
        reasons = collections.Counter(reject.reason for reject in self.rejects)
        where = f": {rejects_path(output)}" if reasons else ""
        return f"""\
{len(self.ids):,} products as {self.vectors.shape[1]} numbers each: {output}
  missing    {json.dumps(dict(self.missing))}
  set aside  {json.dumps(dict(reasons.most_common()))}{where}"""


def rejects_path(output: epath.Path) -> epath.Path:
    """embeddings.npz -> embeddings.rejects.jsonl."""
    return output.with_suffix(".rejects.jsonl")


def embed_dump(
    model: ProductModel,
    format_name: str,
    folder: str,
    *,
    region_features: str = "",
    workers: int = 0,
) -> Embedded:
    """Embeds every product of a dump that can be used, and sets the others aside.

    Args:
      model: what embeds.
      format_name: how the dump is written, of `catalogues.FORMATS`.
      folder: where it lies.
      region_features: of a detector, for a model that looks at regions; see docs/data.md.
      workers: processes that read pictures and features; 0 is this one.

    Raises:
      UserError: the dump or the region features can't be read, or do not fit the model.
    """
    catalogue = open_catalog(format_name, folder)
    maker = _maker(catalogue, model.network.settings.image, region_features)
    found = Embedded(vectors=np.zeros((0, model.width), np.float32))
    # A worker says what became of a line, but not which line it was.
    lines, places = itertools.tee(catalogue.lines())
    outcomes = zip(places, ordered_map(maker, lines, workers), strict=True)
    count = sum(1 for _ in catalogue.lines())
    records = _usable(tqdm(outcomes, "embedding", count, unit=" records"), found)
    found.vectors = np.concatenate([found.vectors, *model.embed_parts(records)])
    return found


def _maker(catalogue: CatalogReader, image: Image, region_features: str) -> RecordBuilder:
    """What makes records as the model wants them; nobody asks for classes, so no codebook."""
    if (image.front_end == "regions") != bool(region_features):
        raise UserError(
            f"--region_features: the model looks at {image.front_end}; region features are for a "
            "model that looks at regions, and such a model needs them"
        )
    maker = RecordBuilder(catalogue, image.grid * image.patch_size, image.patch_size, None)
    if not region_features:
        return maker
    features = open_region_features(region_features)
    sizes = first_sizes(features, _ids(catalogue), image.top_classes)
    if sizes.feature_dim != image.feature_dim:
        raise UserError(
            f"--region_features: {region_features} has {sizes.feature_dim} numbers per region, the "
            f"model looks at {image.feature_dim}: take the features of the detector it was trained "
            "with"
        )
    return dataclasses.replace(maker, region_features=features, region_sizes=sizes)


def _ids(catalogue: CatalogReader) -> Iterator[str]:
    for raw in catalogue.lines():
        with contextlib.suppress(InvalidRecordError):
            yield catalogue.parse(raw).id


def _usable(
    outcomes: Iterable[tuple[RawLine, BuiltRecord | RejectedLine]], found: Embedded
) -> Iterator[dict[str, Any]]:
    """The records that can be used; all that is told of them and of the others goes to `found`."""
    seen: set[str] = set()
    for raw, outcome in outcomes:
        if isinstance(outcome, RejectedLine):
            found.rejects.append(outcome)
            continue
        record = outcome.record
        if record["id"] in seen:
            detail = f"an earlier record has id {record['id']!r}"
            found.rejects.append(RejectedLine(raw.file, raw.line, "repeated_id", detail))
            continue
        seen.add(record["id"])
        found.ids.append(record["id"])
        looked_at = len(record["boxes"]) if "boxes" in record else record["picture"]
        found.missing.update(
            picture=not looked_at, title=not record["title"], triples=not record["values"]
        )
        yield record
