"""Records to the arrays that a model embeds: nothing masked, nothing asked, every triple shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from k3m_jax.data.build.record_builder import MAX_REGIONS, stored_record
from k3m_jax.data.catalog.region_features import NPZ_ARRAYS, make_regions
from k3m_jax.data.input.batch import PRODUCT_ARRAYS, inference_settings
from k3m_jax.data.input.collate import collate
from k3m_jax.data.input.examples import ExampleBuilder
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import InvalidRecordError, make_product
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities import pixels
from k3m_jax.modalities.regions import RegionReader
from k3m_jax.settings import Settings, UserError

TEXTS = ("id", "product", "title", "category", "source")
PATCH_KEYS = frozenset((*TEXTS, "properties", "values", "picture", "class_ids"))
REGION_KEYS = PATCH_KEYS | {"boxes", "features", "class_probs"}


class ProductArrays:
    """Makes records of products, and the arrays `batch.PRODUCT_ARRAYS` of records."""

    def __init__(self, chosen: Settings, tokenizer: Tokenizer):
        """`chosen` are a model's resolved settings, `tokenizer` is the one it was trained with."""
        self._settings = inference_settings(chosen)
        self._image = chosen.image
        self._prepare = ExampleBuilder(
            self._settings, tokenizer, ValueVocabulary((), ()), training=False
        )
        self._read = RegionReader(chosen.image)
        self._keys = PATCH_KEYS if chosen.image.front_end == "patches" else REGION_KEYS

    def record(
        self,
        id: str,
        *,
        title: str | None = None,
        triples: Sequence[tuple[str, str]] | None = None,
        picture: bytes | None = None,
        regions: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """The record of one product, cleaned and shrunk as `build_shards` does it.

        Args:
          id: for error messages.
          title: None or "" is absent.
          triples: (property, value) pairs; None or an empty list is absent.
          picture: what stands in a picture's file, for a model of patches; None or b"" is absent.
          regions: a detector's output as `RegionFeatures.raw` describes it, for a model of regions;
            None, or no box, is absent.

        Raises:
          UserError: something of the wrong type, or a picture or regions that can't be read.
        """
        patches = self._image.front_end == "patches"
        if (picture if not patches else regions) is not None:
            wanted, given = ("a picture", "regions") if patches else ("regions", "a picture")
            raise UserError(f"record {id!r}: the model looks at {wanted}, not at {given}")
        try:
            product = make_product(id=id, title=title, triples=triples)
            if patches:
                size = self._image.grid * self._image.patch_size
                stored = pixels.shrink(picture, size, square=True) if picture else b""
                return stored_record(product, stored)
            return stored_record(product, b"", **self._seen(regions))
        except InvalidRecordError as rejected:
            raise UserError(f"record {id!r}: {rejected.reason}: {rejected.detail}") from rejected

    def __call__(
        self, records: Sequence[Mapping[str, Any]], rows: int, first: int = 0
    ) -> dict[str, np.ndarray]:
        """The arrays of records, filled up to `rows` with rows that are absent in everything.

        Args:
          records: as `record` makes them or a `shards.ProductSource` gives them; a key left out is
            an absent modality.
          rows: B, at least as many.
          first: the number of the first record, for error messages.

        Raises:
          UserError: a record that can't be used; it names the record by number and id.
        """
        examples = []
        for index, record in enumerate(records, first):
            try:
                whole = self._whole(record)
                regions = self._read.read(whole)
            except Exception as error:  # decoders of broken pictures raise nearly anything
                name = record.get("id", "no id") if isinstance(record, Mapping) else "no mapping"
                raise UserError(f"records[{index}] ({name}): {error}") from error
            # Nothing is left to chance where nothing is masked.
            examples.append(self._prepare({**whole, "regions": regions}, np.random.default_rng(0)))
        examples += [None] * (rows - len(examples))
        arrays = collate(examples, self._settings, groups=range(rows), seed=0)
        return {name: arrays[name] for name in PRODUCT_ARRAYS}

    def _whole(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with every key, what is absent empty; ValueError where it is none."""
        if not isinstance(record, Mapping):
            raise ValueError(f"{type(record).__name__} is not a record")
        if unknown := record.keys() - self._keys:
            raise ValueError(f"unknown key {min(unknown)!r}: make records with model.record(…)")
        for key in TEXTS:
            if not isinstance(record.get(key, ""), str):
                raise ValueError(f"{key} is {record[key]!r:.40}, not a string")
        properties, values = record.get("properties", ()), record.get("values", ())
        for key, texts in (("properties", properties), ("values", values)):
            if isinstance(texts, str) or not all(isinstance(t, str) and t for t in texts):
                raise ValueError(f"{key} is {texts!r:.40}, not a list of texts")
        if len(properties) != len(values):
            raise ValueError(f"{len(properties)} properties and {len(values)} values")
        empty = dict.fromkeys(TEXTS, "") | {"properties": (), "values": (), "picture": b""}
        return {**empty, **self._classless(record), **record}

    def _seen(self, regions: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        raw = {name: np.asarray(array) for name, array in (regions or {}).items()}
        if not raw:
            return {}
        if missing := set(NPZ_ARRAYS[:4]) - raw.keys():
            raise InvalidRecordError("bad_regions", f"no array {', '.join(sorted(missing))}")
        if not len(raw["boxes"]):
            return {}
        return dataclasses.asdict(make_regions(raw, MAX_REGIONS, self._image.top_classes))

    def _classless(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays that a record may leave out: classes serve the objectives alone."""
        if self._image.front_end == "patches":
            return {"class_ids": np.zeros(self._image.regions, np.int32)}
        n = len(record.get("boxes", ()))
        return {
            "boxes": np.zeros((0, 4), np.float32),
            "features": np.zeros((0, self._image.feature_dim), np.float16),
            "class_ids": np.zeros((n, 0), np.int32),
            "class_probs": np.zeros((n, 0), np.float16),
        }
