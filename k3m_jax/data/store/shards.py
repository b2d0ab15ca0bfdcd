"""The stored data set: a registered TFDS builder, what lies beside its shards, and how to open it.

Importing this module makes `tfds.builder("k3m_products/patches", data_dir=…)` work; TensorFlow is
not needed. What is written, by `building.build`, is told in docs/data.md.
"""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import writer

from k3m_jax.data.catalog.pairs import Pair, stored_pairs, stored_views
from k3m_jax.data.store import remote
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.settings import UserError

NAME = "k3m_products"
BUILD_INFO, CODEBOOK, VALUES, TOKENIZER, REJECTS = (
    "build.json",
    "codebook.npz",
    "values.json",
    "tokenizer",
    "rejects.jsonl",
)

FILE_BYTES = 32 << 20  # of one file of shards, where nothing says how many there are

# property -> value -> how many items of `train` have it; values of the other splits alone have 0.
# Both levels are sorted, so that the order of the pairs can serve as their ids.
ValueTable = Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class BuildInfo:
    """What is true of a whole data set, build.json."""

    front_end: str  # patches or regions
    image_size: int  # pixels of the stored picture's longer side; of both sides with patches
    patch_size: int  # 0 with regions
    regions: int  # N at most
    feature_dim: int  # F; patches: patch_size² · 3
    classes: int  # C, of the codebook or of the detector; 0 where nothing tells classes
    top_classes: int  # c: classes kept per region
    products: Mapping[str, int]  # items by split
    missing: Mapping[str, int]  # items without a picture, title or triples
    repaired: Mapping[str, int]  # what was put right on the way, by kind (docs/data.md)
    rejects: Mapping[str, int]  # records set aside, by reason
    fingerprint: str  # of all items' contents and splits, whatever their order
    version: str  # of k3m_jax
    arguments: Mapping[str, Any]  # that the data set was built with
    # Labelled pairs of items by split; a data set written before there were any has none.
    pairs: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: epath.Path) -> None:
        """Writes build.json."""
        (folder / BUILD_INFO).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: epath.PathLike) -> "BuildInfo":
        """Reads build.json."""
        return cls(**json.loads((epath.Path(folder) / BUILD_INFO).read_text()))


class Job(Protocol):
    """What a builder asks of a build under way."""

    sizes: Mapping[str, int]  # feature_dim and top_classes

    @abc.abstractmethod
    def finish(self, folder: epath.Path) -> None:
        """Writes what lies beside the shards; called when all of them are written."""


class LocalJob(Job, Protocol):
    """A build on this machine."""

    @abc.abstractmethod
    def files(self) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        """By split, for each of its files what gives the (id, record) pairs of it, in turn."""


class ProductsBuilder:
    """What is the same of a data set of products, whatever writes it."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Pictures as patches, or as the regions of a detector."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="patches", description="pixels, classes from a codebook"),
        tfds.core.BuilderConfig(name="regions", description="features and classes of a detector"),
    ]

    def __init__(self, *, job: Job | None = None, **kwargs):
        self._job = job
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Products for K3M pretraining: picture, title, knowledge triples.",
            features=_features(self.builder_config.name, self._sizes()),
        )

    def _sizes(self) -> Mapping[str, int]:
        """Sizes of the arrays: those of the build under way, or of what is stored already."""
        if self._job:
            return self._job.sizes
        if (self.data_path / BUILD_INFO).exists():
            return dataclasses.asdict(BuildInfo.read(self.data_path))
        return {"feature_dim": 2048, "top_classes": 8}

    def _example_writer(self) -> writer.ExampleWriter:
        return _Writer(self.info.file_format)

    def _download_and_prepare(self, dl_manager, download_config=None):
        # data_dir is a temporary folder here, renamed when all is written: what lies beside the
        # shards must be there before that, or a build cut short would look finished.
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
    """Products with a picture, a title and triples. Written by `python -m launch.build_shards`."""

    name = NAME

    def _shard_iterators_per_split(self, dl_manager):
        if self._job is None:
            raise UserError(f"{NAME} is written by `python -m launch.build_shards`")
        return self._job.files()


def files_of(items: int, size: int, wanted: int = 0) -> int:
    """How many files a split of `size` bytes becomes: `wanted`, or by its size if 0."""
    return min(wanted or max(1, -(-size // FILE_BYTES)), items)


def _features(front_end: str, sizes: Mapping[str, int]) -> tfds.features.FeaturesDict:
    text = tfds.features.Text()
    c = sizes["top_classes"]
    features = {
        "id": text,
        "product": text,
        "title": text,
        "category": text,
        "source": text,
        "properties": tfds.features.Sequence(text),
        "values": tfds.features.Sequence(text),
        "picture": tfds.features.Tensor(shape=(), dtype=np.object_),  # JPEG; b"" is absent
    }
    if front_end == "patches":
        features["class_ids"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
    else:
        features |= {
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "features": tfds.features.Tensor(
                shape=(None, sizes["feature_dim"]),
                dtype=np.float16,
                encoding="bytes",  # else stored as float32
            ),
            "class_ids": tfds.features.Tensor(shape=(None, c), dtype=np.int32),
            "class_probs": tfds.features.Tensor(
                shape=(None, c), dtype=np.float16, encoding="bytes"
            ),
        }
    return tfds.features.FeaturesDict(features)


class ProductSource:
    """Random access to the items of one split, in the order they are stored; pickles.

    An item is a dict: id, product, title, category, source (str); properties, values (lists of str
    of one length); picture (JPEG, b"" is absent); and, for the front end `patches`, class_ids int32
    [N]; for `regions`, boxes float32 [N, 4], features float16 [N, F], class_ids int32 [N, c],
    class_probs float16 [N, c]. N is 0 where the picture is absent, and varies with regions.
    """

    def __init__(self, source: Any, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self}")  # what ends a for loop
        item = dict(self._source[index])
        for key in ("id", "product", "title", "category", "source"):
            item[key] = item[key].decode()
        for key in ("properties", "values"):
            item[key] = [text.decode() for text in item[key]]
        return item

    def __repr__(self) -> str:  # grain tells sources apart by it when it restores an iterator
        return f"ProductSource({self._name})"


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """One data set, opened."""

    folder: epath.Path  # the version folder: shards and what lies beside them
    info: BuildInfo

    def __str__(self) -> str:
        """Its folder, and that of the products that it was built of."""
        return f"{self.folder} (built of {self.info.arguments['input']})"

    def source(self, split: str) -> ProductSource:
        """The items of a split; raises UserError where there is no such split."""
        if split not in self.info.products:
            raise UserError(
                f"{self.folder} has no split {split!r}, only {', '.join(self.info.products)}"
            )
        name = f"{self.folder}, split={split}, fingerprint={self.info.fingerprint}"
        folder = self.folder
        if remote.is_remote(folder):  # ArrayRecord reads local files alone
            told = [folder / file for file in ("dataset_info.json", "features.json")]
            files = folder.glob(f"{NAME}-{split}.array_record*")
            folder = remote.local_copies([*told, *files], self.info.fingerprint)
        builder = tfds.builder_from_directory(folder)
        return ProductSource(builder.as_data_source(split), name)

    @functools.cached_property
    def values(self) -> ValueTable:
        """The table that link prediction ranks over."""
        return json.loads((self.folder / VALUES).read_text())

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Labelled pairs of items, for product alignment."""
        return stored_pairs(self.folder)

    @functools.cached_property
    def views(self) -> dict[str, bytes]:
        """Pictures of items in pairs besides the stored ones: JPEG by path."""
        return stored_views(self.folder)

    @property
    def contents(self) -> str:
        """A digest of items, pairs and views: of all that can be measured on the data set."""
        pairs = [dataclasses.astuple(pair) for pair in self.pairs]
        views = [(path, len(data)) for path, data in self.views.items()]
        told = json.dumps([self.info.fingerprint, pairs, views])
        return hashlib.blake2b(b"".join([told.encode(), *self.views.values()])).hexdigest()

    @property
    def codebook(self) -> Codebook | None:
        """The classes of patches; None with regions."""
        path = self.folder / CODEBOOK
        return Codebook.load(path) if path.exists() else None

    def codebook_of(self, image_size: int, patch_size: int) -> Codebook:
        """The codebook, for other pictures of that size; raises UserError where it is not so."""
        mine = self.info.image_size, self.info.patch_size
        if self.codebook is None or mine != (image_size, patch_size):
            raise UserError(
                f"--codebook: {self.folder} has no classes of {patch_size} px patches of "
                f"{image_size} px pictures, its --image_size and --patch_size are {mine}"
            )
        return self.codebook

    @property
    def tokenizer_folder(self) -> epath.Path | None:
        """The tokenizer trained on this data set; None where it was built without one."""
        path = self.folder / TOKENIZER
        return path if path.exists() else None


def open_shards(path: epath.PathLike) -> ShardSet:
    """Opens a data set: its version folder, or a folder above it that holds no other.

    Raises:
      UserError: nothing there, several data sets, or one that is not complete.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"there is no data set at {path}: it does not exist")
    found = [path] if (path / BUILD_INFO).exists() else []
    levels = ("", "*/", f"{NAME}/*/")
    for level in levels:
        found += [p.parent for p in path.glob(f"{level}[0-9]*/{BUILD_INFO}")]
    if not found:
        cut_short = any(any(path.glob(f"{level}incomplete.*")) for level in levels)
        hint = "only a build that was cut short" if cut_short else "no data set"
        raise UserError(f"{path} holds {hint}: python -m launch.build_shards writes one")
    if len(found) > 1:
        names = ", ".join(str(p.relative_to(path)) for p in sorted(found))
        raise UserError(f"{path} holds several data sets, name one of them: {names}")
    if not (found[0] / "dataset_info.json").exists():
        raise UserError(f"{found[0]} is not complete: build it again with --overwrite")
    return ShardSet(found[0], BuildInfo.read(found[0]))
