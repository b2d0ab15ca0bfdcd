"""A dump of products to vectors: what `launch.embed` does, and how any dump is read for a model."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from k3m_jax import modalities
from k3m_jax.data.build.record_builder import RecordBuilder
from k3m_jax.data.catalog.readers import CatalogReader
from k3m_jax.data.catalog.region_features import RegionReader
from k3m_jax.data.records import Product, Record
from k3m_jax.data.store import remote
from k3m_jax.pretrained.vision.extraction import BATCH, extract
from k3m_jax.serving.bulk import BulkJob, Share
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import Image, UserError

TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}


def job_of(
    model: ProductModel,
    catalog: CatalogReader,
    output: epath.Path,
    about: Mapping[str, Any],
    *,
    region_features: str = "",
    **options: Any,
) -> BulkJob:
    """The parts of a dump for a model; `about` and `options` as of `BulkJob`.

    Where a model of regions is given no `region_features`, its own frozen model looks at all
    pictures first. Raises UserError where the features do not go with the model, or that can't be
    opened.
    """
    settings = model.network.settings
    if settings.image.front_end == "regions" and not region_features:
        region_features = str(_extracted(model, catalog, output, options))
    build = record_builder(catalog, settings.image, region_features)
    about, active = {"model": model.fingerprint, **about}, modalities.active(settings)
    return BulkJob(build, output, about, modalities=active, **options)


def vector_table(model: ProductModel, records: Iterable[Record], dtype: str) -> pa.Table:
    """`id`, `product` and `vector` of records, in their order; with int8 also `scale`.

    `vector * scale` is then the vector, to half a step of the largest number over 127.
    """
    ids: list[tuple[str, str]] = []

    def noted() -> Iterator[Record]:
        for record in records:
            ids.append((record.id, record.product))
            yield record

    parts = [_stored(vectors, dtype) for vectors in model.embed_parts(noted())]
    empty = _stored(np.zeros((0, model.width), np.float32), dtype)
    vectors, scales = (np.concatenate(each) for each in zip(empty, *parts, strict=True))
    columns = {name: [row[i] for row in ids] for i, name in enumerate(("id", "product"))}
    table = pa.table(columns, pa.schema([("id", pa.string()), ("product", pa.string())]))
    flat = pa.array(vectors.reshape(-1), TYPES[dtype])
    table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, model.width))
    return table.append_column("scale", pa.array(scales)) if dtype == "int8" else table


def vectors_of(table: pa.Table) -> np.ndarray:
    """The vectors of such a table, float32 [N, D]."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = values.reshape(len(table), column.type.list_size)
    return (
        vectors * table["scale"].to_numpy()[:, None] if "scale" in table.column_names else vectors
    )


def _stored(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [n, D] in their type, and the scale [n] of each, which int8 alone needs."""
    if dtype != "int8":
        return vectors.astype(dtype), np.ones(len(vectors), np.float32)
    scales = np.abs(vectors).max(1, initial=0) / 127
    steps = vectors / np.where(scales, scales, 1)[:, None]
    return np.rint(steps).astype(np.int8), scales.astype(np.float32)


def _extracted(
    model: ProductModel, catalog: CatalogReader, output: epath.Path, options: Mapping[str, Any]
) -> epath.Path:
    """The folder of region features by the model's own frozen model; what is there is kept."""
    if options.get("share", Share()).count > 1 or remote.is_remote(output):
        hint = "make them once with launch.extract_regions, and name --region_features"
        raise UserError(f"--part, or a remote --output, with a model of regions: {hint}")
    folder = output / "_regions"
    backbone = model.backbone
    folder.mkdir(parents=True, exist_ok=True)
    extract(backbone, catalog, pathlib.Path(folder), BATCH, options.get("workers", 0))
    return folder


def record_builder(
    catalog: CatalogReader, image: Image, region_features: str = ""
) -> RecordBuilder:
    """What makes records as a model wants them, without classes: these serve training alone.

    `region_features`, a detector's, are for a model that looks at regions (docs/data.md); raises
    UserError where they don't fit it.
    """
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
