"""The stored data set: a registered TFDS builder, what lies next to its shards, and how to open it.

Importing this module makes `tfds.builder("k3m_products/patches", data_dir=…)` work; TensorFlow is
not needed. What `data.build` writes is described in docs/data.md.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import writer
from tqdm import tqdm

from k3m_jax.data.records import Record
from k3m_jax.data.store import integrity, remote
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.data.store.pairs import Pair, stored_pairs, stored_views
from k3m_jax.data.store.source import IDENTITY, UNREADABLE, ProductSource
from k3m_jax.modalities import REGISTRY
from k3m_jax.modalities.base import Feature
from k3m_jax.modalities.picture import Layout
from k3m_jax.settings import Backbone, UserError

NAME, FORMAT_VERSION = "k3m_products", "2.0.0"
BUILD_INFO, VALUES = "build.json", "values.json"
REJECTS, REPAIRS = "rejects.jsonl", "repairs.jsonl"
CODEBOOK, TOKENIZER = "codebook.npz", "tokenizer"
PRODUCTS = "products.npz"  # by split, `product_hash` of each item
DATASET_INFO, FEATURES = "dataset_info.json", "features.json"  # of TFDS
OF_TFDS = (DATASET_INFO, FEATURES)  # written once all else is there
FILE_BYTES = 32 << 20  # of one file of shards, where the number of files is not given


@dataclasses.dataclass(frozen=True)
class BuildInfo:
    """What is true of a whole data set, build.json."""

    front_end: str  # patches or regions
    image_size: int  # pixels of the stored picture's longer side; of both sides with patches
    patch_size: int  # 0 with regions
    regions: int  # N at most
    feature_dim: int  # F; patches: patch_size² · 3
    classes: int  # C, of the codebook or of the detector; 0 where classes are unknown
    top_classes: int  # c: classes kept per region
    products: Mapping[str, int]  # items by split
    missing: Mapping[str, int]  # items without a modality, by its name
    repaired: Mapping[str, int]  # what was repaired on the way, by kind (docs/data.md)
    rejects: Mapping[str, int]  # records set aside, by reason
    fingerprint: str  # of all items' contents and splits, whatever their order
    version: str  # of k3m_jax
    arguments: Mapping[str, Any]  # that the data set was built with
    pairs: Mapping[str, int] = dataclasses.field(default_factory=dict)  # labelled, by split
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # the modalities' largest
    backbone: Backbone = Backbone()  # that made the regions, if it is known
    # Size and digest of each other file; empty: built before there were any.
    files: Mapping[str, list[Any]] = dataclasses.field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """How the pictures are stored."""
        return Layout(self.front_end, self.feature_dim, self.top_classes)

    @classmethod
    def read(cls, folder: epath.PathLike) -> "BuildInfo":
        """Reads build.json; raises UserError where it is not as it was written."""
        path = epath.Path(folder) / BUILD_INFO
        try:
            content = json.loads(path.read_text())
            if content.pop("seal", sealed := integrity.seal(content)) != sealed:
                raise ValueError("it was changed after it was written")
            content["backbone"] = Backbone(**content.get("backbone", {}))
            return cls(**content)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} can't be read ({error}): {integrity.HINT}") from error

    def write(self, folder: epath.PathLike) -> None:
        """Writes build.json, which makes a data set complete."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        content["seal"] = integrity.seal(content)
        remote.publish(epath.Path(folder) / BUILD_INFO, json.dumps(content, indent=1))


class ProductsBuilder:
    """What all writers share; `job` is the `data.build.local.Build` under way, None to read."""

    VERSION = tfds.core.Version(FORMAT_VERSION)
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=front_end) for front_end in ("patches", "regions")
    ]

    def __init__(self, *, job: Any = None, **kwargs):
        self._job = job
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        layout = (self._job.builder if self._job else BuildInfo.read(self.data_path)).layout
        features = {name: tfds.features.Text() for name in IDENTITY}
        for modality in REGISTRY.values():
            features |= {k: _tfds_feature(v) for k, v in modality.features(layout).items()}
        described = "Products for K3M pretraining: one feature or more per modality."
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, description=described, features=features)

    def _example_writer(self) -> writer.ExampleWriter:
        return _Writer(self.info.file_format)

    def _download_and_prepare(self, dl_manager, download_config=None):
        # data_dir is temporary here: what is next to the shards must be there before it is renamed.
        super()._download_and_prepare(dl_manager, download_config)
        self._job.finish(epath.Path(self.data_dir))


class _Writer(writer.ExampleWriter):
    """ArrayRecord writes to local files alone."""

    def write(self, path, examples):
        folder = remote.LocalFolder(epath.Path(path).parent)
        positions = super().write(folder.path / epath.Path(path).name, examples)
        folder.close()
        return positions


class K3mProducts(ProductsBuilder, tfds.core.ShardBasedBuilder):
    """Products with their modalities. Written by `python -m launch.build_shards`."""

    name = NAME

    def _shard_iterators_per_split(self, dl_manager):
        if self._job is None:
            raise UserError(f"{NAME} is written by `python -m launch.build_shards`")
        return self._job.files()


def files_of(items: int, size: int, wanted: int = 0) -> int:
    """How many files a split of `size` bytes becomes: `wanted`, or by its size if 0."""
    return min(wanted or max(1, -(-size // FILE_BYTES)), items)


def to_example(record: Record) -> dict[str, Any]:
    """A record as TFDS stores it."""
    example = {name: getattr(record, name) for name in IDENTITY}
    for name, modality in REGISTRY.items():
        example |= modality.to_features(record.contents[name])
    return example


def product_hash(product: str) -> int:
    """Of a product's id: 64 bits, signed."""
    return int.from_bytes(hashlib.blake2b(product.encode(), digest_size=8).digest(), signed=True)


def _tfds_feature(feature: Feature) -> Any:
    if feature.dtype is str:
        text = tfds.features.Text()
        return tfds.features.Sequence(text) if feature.shape else text
    if feature.dtype is bytes:
        return tfds.features.Tensor(shape=feature.shape, dtype=np.object_)
    encoding = "bytes" if feature.dtype is np.float16 else "none"  # else stored as float32
    return tfds.features.Tensor(shape=feature.shape, dtype=feature.dtype, encoding=encoding)


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """One data set, opened."""

    folder: epath.Path  # the version folder: shards and what lies next to them
    info: BuildInfo
    unreadable: int = UNREADABLE  # records of a split that may be
    copy: str = "auto"  # whether remote shards are read from copies, `data.copy` of the settings

    def __str__(self) -> str:
        return f"{self.folder} (built of {self.info.arguments['input']})"

    def source(self, split: str) -> ProductSource:
        """The items of a split; raises UserError where there is no such split."""
        folder, info = self.folder, self.info
        if split not in info.products:
            raise UserError(f"{folder} has no split {split!r}, only {', '.join(info.products)}")
        name = f"{folder}, split={split}, fingerprint={info.fingerprint}"
        if remote.is_remote(folder):
            metadata = [folder / file for file in OF_TFDS]
            files = [*metadata, *folder.glob(f"{NAME}-{split}.array_record*")]
            folder = epath.Path(remote.readable(files, info.fingerprint, self.copy))
            known = {file.name: info.files[file.name] for file in files if file.name in info.files}
            integrity.check(folder, known)  # others may write to a temporary folder, too
        source = tfds.builder_from_directory(folder).as_data_source(split)
        return ProductSource(source, name, info.layout, self.unreadable)

    def product_hashes(self, split: str) -> np.ndarray:
        """`product_hash` of each item of a split, int64 [I].

        Reads the whole split where the build has not left them (Beam does not).
        """
        path = self.folder / PRODUCTS
        if path.exists():
            with path.open("rb") as file:
                return np.load(file)[split]
        items = tqdm(self.source(split), f"products of {split}", unit=" items")
        return np.array([product_hash(record.product) for record in items], np.int64)

    def facts(self, split: str) -> Sequence[Record]:
        """The items of a split with their triples alone, read once and kept: many tasks need them.

        Raises UserError as `source` does.
        """
        if split not in self._facts:
            absent = {name: modality.empty for name, modality in REGISTRY.items()}
            self._facts[split] = [
                dataclasses.replace(item, contents={**absent, "knowledge": item.triples})
                for item in tqdm(
                    self.source(split), f"facts of {split}", unit=" items", leave=False
                )
            ]
        return self._facts[split]

    @functools.cached_property
    def _facts(self) -> dict[str, Sequence[Record]]:
        return {}

    @functools.cached_property
    def values(self) -> Mapping[str, Mapping[str, int]]:
        """Property -> value -> items of `train` that have it, 0 for values of other splits alone.

        Both levels are sorted, so that the order of the pairs can serve as their ids.
        """
        return json.loads((self.folder / VALUES).read_text())

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Labelled pairs of items, for product alignment."""
        return stored_pairs(self.folder)

    @functools.cached_property
    def views(self) -> dict[str, bytes]:
        """Pictures that pairs are shown by, other than the items' own: JPEG by path."""
        return stored_views(self.folder) if self.pairs else {}

    @property
    def contents(self) -> str:
        """A digest of items, pairs and views: of all that can be measured on the data set."""
        pairs = [dataclasses.astuple(pair) for pair in self.pairs]
        views = [(path, len(data)) for path, data in self.views.items()]
        described = json.dumps([self.info.fingerprint, pairs, views])
        return hashlib.blake2b(b"".join([described.encode(), *self.views.values()])).hexdigest()

    @property
    def codebook(self) -> Codebook | None:
        """The classes of patches; None with regions."""
        path = self.folder / CODEBOOK
        return Codebook.load(path) if path.exists() else None

    @property
    def tokenizer_folder(self) -> epath.Path | None:
        """The tokenizer trained on this data set; None where it was built without one."""
        path = self.folder / TOKENIZER
        return path if path.exists() else None


def open_shards(path: epath.PathLike, unreadable: int = UNREADABLE, copy: str = "auto") -> ShardSet:
    """Opens a data set: its version folder, or a folder above it that holds no other.

    `unreadable` records of a split may be damaged; `copy` is `data.copy` of the settings. Raises
    UserError: nothing there, several data sets, or one that is not complete, too old, or not as it
    was built.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"there is no data set at {path}: it does not exist")
    found = [path] if (path / BUILD_INFO).exists() else []
    levels = ("", "*/", f"{NAME}/*/")
    found += [p.parent for level in levels for p in path.glob(f"{level}[0-9]*/{BUILD_INFO}")]
    if not found:
        cut_short = any(any(path.glob(f"{level}incomplete.*")) for level in levels)
        hint = "only a build that was cut short" if cut_short else "no data set"
        raise UserError(f"{path} holds {hint}: python -m launch.build_shards writes one")
    if len(found) > 1:
        names = ", ".join(str(p.relative_to(path)) for p in sorted(found))
        raise UserError(f"{path} holds several data sets, name one of them: {names}")
    (folder,) = found
    if not (folder / DATASET_INFO).exists():
        raise UserError(f"{folder} is not complete: build it again with --overwrite")
    lengths = _split_lengths(folder / DATASET_INFO)
    info = BuildInfo.read(folder)
    integrity.check(folder, info.files)
    if info.files and lengths != dict(info.products):
        found = f"{folder / DATASET_INFO} has other splits than {BUILD_INFO}"
        raise UserError(f"{found}: {integrity.HINT}")
    return ShardSet(folder, info, unreadable, copy)


def _split_lengths(path: epath.Path) -> dict[str, int]:
    """Items by split, as TFDS has them; UserError for what can't be read or has another format."""
    try:
        content = json.loads(path.read_text())
        if (version := content["version"]) != FORMAT_VERSION:
            found = f"{path.parent} is of version {version}, not {FORMAT_VERSION}"
            raise UserError(f"{found}: build it again")
        return {each["name"]: sum(map(int, each["shardLengths"])) for each in content["splits"]}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} can't be read ({error!r}): {integrity.HINT}") from error
