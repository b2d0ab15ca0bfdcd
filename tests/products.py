"""Products in memory, for tests of what comes after the shards."""

import dataclasses
import functools
import io
import pathlib
import tempfile
from collections import Counter, defaultdict

import numpy as np
from PIL import Image

from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.data.store.shards import BuildInfo
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.settings import Settings
from tests.tiny import tiny_settings

COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "gold")
BRANDS = ("norda", "velti", "oskar", "pumo", "quill", "rhea")
FIBRES = ("cotton", "wool", "silk", "linen", "hemp")


def record(number: int, triples: list[tuple[str, str]], *, title="a thing", product="", **keys):
    """One record as a source of patches gives it: an 8 x 8 picture, four patches."""
    return {
        "id": f"id{number}",
        "product": product or f"product{number}",
        "title": title,
        "category": "things",
        "source": "test",
        "properties": [name for name, _ in triples],
        "values": [value for _, value in triples],
        "picture": jpeg(number),
        "class_ids": np.arange(4, dtype=np.int32) + number % 3,
        **keys,
    }


@functools.cache
def jpeg(number: int, size: int = 8) -> bytes:
    """A small picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def detected(number: int, boxes: int = 4, width: int = 6, classes: int = 5) -> dict:
    """What a detector adds to a record."""
    rng = np.random.default_rng(number)
    corners = np.sort(rng.random((boxes, 2, 2)), axis=1).reshape(boxes, 4)
    return {
        "boxes": corners.astype(np.float32),
        "features": rng.normal(size=(boxes, width)).astype(np.float16),
        "class_ids": rng.permuted(np.tile(np.arange(classes), (boxes, 1)), axis=1)[:, :3],
        "class_probs": -np.sort(-rng.random((boxes, 3))).astype(np.float16) / 3,
    }


def products(count: int, seed: int = 0, first: int = 0) -> list[dict]:
    """Ordinary products: two items of each, three to five triples, fibre with several values."""
    rng = np.random.default_rng((seed, first))
    found = []
    for number in range(first, first + count):
        colour, brand = rng.choice(COLOURS), rng.choice(BRANDS)
        fibres = rng.choice(FIBRES, rng.integers(1, 4), replace=False)
        triples = [("colour", colour), ("brand", brand), *(("fibre", f) for f in fibres)]
        title = f"{brand} {colour} thing of {fibres[0]}"
        found.append(record(number, triples, title=title, product=f"product{number // 2}"))
    return found


@dataclasses.dataclass
class MemoryShards:
    """What the pipeline asks of a `shards.ShardSet`."""

    splits: dict[str, list[dict]]
    info: BuildInfo
    codebook: Codebook | None = None
    folder: str = "memory"
    tokenizer_folder: str | None = None

    def source(self, split: str) -> list[dict]:
        """The records themselves."""
        return self.splits[split]

    @functools.cached_property
    def values(self) -> dict[str, Counter]:
        """Counts over train; the values of other splits with 0."""
        table = defaultdict(Counter)
        for split, records in self.splits.items():
            for item in records:
                for pair in zip(item["properties"], item["values"], strict=True):
                    table[pair[0]][pair[1]] += split == "train"
        return table


def memory_shards(train: list[dict], valid: list[dict] = (), **info) -> MemoryShards:
    """A data set of patches as `tiny_settings` wants them; `info` is what it says else."""
    splits = {"train": list(train), "valid": list(valid)}
    sizes = {split: len(records) for split, records in splits.items()}
    missing = {"picture": sum(not r["picture"] for records in splits.values() for r in records)}
    told = {
        "front_end": "patches",
        "image_size": 8,
        "patch_size": 4,
        "regions": 4,
        "feature_dim": 48,
        "classes": 7,
        "top_classes": 1,
        "products": sizes,
        "missing": missing,
        "repaired": {},
        "rejects": {},
        "fingerprint": "memory",
        "version": "test",
        "arguments": {},
    }
    return MemoryShards(splits, BuildInfo(**told | info))


@functools.cache
def tokenizer() -> Tokenizer:
    """A vocabulary that has every word of `products` whole."""
    words = [*COLOURS, *BRANDS, *FIBRES, "colour", "brand", "fibre", "thing", "of", "a"]
    numbers = [str(n) for n in range(200)]
    with tempfile.TemporaryDirectory() as folder:
        train_wordpiece(count_words((words + numbers) * 20), 1000, folder)
        return Tokenizer.load(pathlib.Path(folder))


def inputs(*shard_sets: MemoryShards) -> Inputs:
    """The arguments of `train_batches` for data sets in memory."""
    return Inputs(shard_sets, tokenizer(), ValueVocabulary.merge(s.values for s in shard_sets))


def settings_for(given: Inputs, **groups) -> Settings:
    """Tiny settings with the sizes of the data."""
    settings = tiny_settings(**groups)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, vocabulary=0),
        image=dataclasses.replace(settings.image, classes=0),
    )
    return given.resolve(settings)
