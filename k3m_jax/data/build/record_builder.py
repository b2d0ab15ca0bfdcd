"""The whole way from a raw line of a catalogue to a stored record.

Nothing here holds state, so that any runner can map it: worker processes and Apache Beam do.
"""

import dataclasses
from typing import Any

import numpy as np

from k3m_jax.data.catalog.readers import CatalogReader, RawLine
from k3m_jax.data.catalog.region_features import RegionFeatures, RegionSizes
from k3m_jax.data.records import InvalidRecordError, Product, RejectedLine, Splitting
from k3m_jax.data.store import codebook as codebooks
from k3m_jax.modalities import pixels

MAX_REGIONS = 36  # of a picture, the most confident ones


@dataclasses.dataclass(frozen=True)
class BuiltRecord:
    """A usable record, and what was repaired on the way."""

    split: str
    record: dict[str, Any]
    notes: tuple[str, ...]
    picture: str = ""  # path of the one that is stored, relative to the catalogue's folder


def stored_record(product: Product, picture: bytes, **seen: np.ndarray) -> dict[str, Any]:
    """A record as it is stored: `shards.ProductSource` tells its keys.

    Args:
      product: what the catalogue says.
      picture: as `pictures.shrink` makes it, b"" where there is none.
      **seen: the arrays of its patches or regions.
    """
    return {
        "id": product.id,
        "product": product.product,
        "title": product.title,
        "category": product.category,
        "source": product.source,
        "properties": [p for p, _ in product.triples],
        "values": [v for _, v in product.triples],
        "picture": picture,
        **seen,
    }


@dataclasses.dataclass(frozen=True)
class RecordBuilder:
    """From a raw line of a catalogue to a stored record; a pure function that pickles."""

    catalogue: CatalogReader
    image_size: int
    patch_size: int
    codebook: codebooks.Codebook | None  # None with regions, or where nobody asks for classes
    region_features: RegionFeatures | None = None  # None with patches
    region_sizes: RegionSizes | None = None
    splitting: Splitting = dataclasses.field(default_factory=Splitting)

    def __call__(self, raw: RawLine) -> BuiltRecord | RejectedLine:
        """The record of a line, with the keys of `shards.ProductSource`, or why there is none."""
        try:
            return self._make(raw)
        except InvalidRecordError as rejected:
            return RejectedLine(raw.file, raw.line, rejected.reason, rejected.detail)

    def _make(self, raw: RawLine) -> BuiltRecord:
        product = self.catalogue.parse(raw)
        picture = self.picture(product.picture)
        lost = product.picture and not picture
        notes = product.notes + (("picture_not_found",) if lost else ())
        record = stored_record(product, picture, **self._seen(product, picture))
        return BuiltRecord(self.splitting(product), record, notes, product.picture)

    def picture(self, path: str) -> bytes:
        """A picture of the catalogue as it is stored, b"" where there is none."""
        data = self.catalogue.read_picture(path)
        square = self.region_features is None
        return pixels.shrink(data, self.image_size, square=square) if data else b""

    def patches(self, picture: bytes) -> np.ndarray:
        """Patches of a stored picture, [N, P²·3]; N = 0 where there is none."""
        if not picture:
            return np.zeros((0, self.patch_size**2 * 3), np.uint8)
        return pixels.patchify(pixels.decode(picture), self.patch_size)

    def _seen(self, product: Product, picture: bytes) -> dict[str, np.ndarray]:
        if self.codebook is not None:
            return {"class_ids": self.codebook.assign(self.patches(picture))}
        return self._regions(product.id) if self.region_features is not None else {}

    def _regions(self, item: str) -> dict[str, np.ndarray]:
        seen = self.region_features.read(item, MAX_REGIONS, self.region_sizes)
        if seen is None:
            F, c = self.region_sizes.feature_dim, self.region_sizes.top_classes
            return {
                "boxes": np.zeros((0, 4), np.float32),
                "features": np.zeros((0, F), np.float16),
                "class_ids": np.zeros((0, c), np.int32),
                "class_probs": np.zeros((0, c), np.float16),
            }
        return dataclasses.asdict(seen)


@dataclasses.dataclass(frozen=True)
class PatchDescriber:
    """Descriptors of the patches of a line's picture, to fit a codebook to."""

    maker: RecordBuilder

    def __call__(self, raw: RawLine) -> np.ndarray:
        """[N, Z]; N = 0 where there is no usable picture."""
        maker = self.maker
        try:
            picture = maker.picture(maker.catalogue.parse(raw).picture)
        except InvalidRecordError:
            picture = b""
        return codebooks.describe(maker.patches(picture), maker.patch_size)
