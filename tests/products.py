"""Products in memory, for tests of what comes after the shards."""

import dataclasses
import functools
import io
import pathlib
import tempfile
from collections import Counter, defaultdict

import numpy as np
from PIL import Image

from k3m_jax.data.input.batch import BatchLayout, ExampleBuilder, PretrainingExample
from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.data.records import ItemView, Record
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.data.store.shards import BuildInfo, product_hash
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.picture import Picture, PictureModality
from k3m_jax.settings import Settings
from tests.tiny import tiny_settings

COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "gold")
BRANDS = ("norda", "velti", "oskar", "pumo", "quill", "rhea")
FIBRES = ("cotton", "wool", "silk", "linen", "hemp")


def record(
    number: int, triples: list[tuple[str, str]], *, title="a thing", product="", picture=None
) -> Record:
    """One stored item of patches: an 8 x 8 picture, four patches."""
    if picture is None:
        picture = Picture(jpeg(number), np.arange(4, dtype=np.int32) + number % 3)
    contents = {"title": title, "image": picture, "knowledge": tuple(triples)}
    return Record(f"id{number}", product or f"product{number}", "things", "test", contents)


def having(item: Record, **contents) -> Record:
    """The same item with other contents, by modality."""
    return dataclasses.replace(item, contents={**item.contents, **contents})


NO_PICTURE = Picture(b"", np.zeros(0, np.int32))


@functools.cache
def jpeg(number: int, size: int = 8) -> bytes:
    """A small picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def detected(number: int, boxes: int = 4, width: int = 6, classes: int = 5) -> Picture:
    """The picture of an item as a detector saw it."""
    rng = np.random.default_rng(number)
    corners = np.sort(rng.random((boxes, 2, 2)), axis=1).reshape(boxes, 4)
    return Picture(
        jpeg(number),
        boxes=corners.astype(np.float32),
        features=rng.normal(size=(boxes, width)).astype(np.float16),
        class_ids=rng.permuted(np.tile(np.arange(classes), (boxes, 1)), axis=1)[:, :3],
        class_probs=-np.sort(-rng.random((boxes, 3))).astype(np.float16) / 3,
    )


def products(count: int, seed: int = 0, first: int = 0) -> list[Record]:
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
    """What the pipeline uses of a `shards.ShardSet`."""

    splits: dict[str, list[Record]]
    info: BuildInfo
    codebook: Codebook | None = None
    folder: str = "memory"
    tokenizer_folder: str | None = None

    def source(self, split: str) -> list[Record]:
        """The records themselves."""
        return self.splits[split]

    def product_hashes(self, split: str) -> np.ndarray:
        """As of shards."""
        return np.array([product_hash(record.product) for record in self.splits[split]])

    facts = source

    @functools.cached_property
    def values(self) -> dict[str, Counter]:
        """Counts over train; the values of other splits with 0."""
        table = defaultdict(Counter)
        for split, records in self.splits.items():
            for item in records:
                for name, value in item.triples:
                    table[name][value] += split == "train"
        return table


def memory_shards(train: list[Record], valid: list[Record] = (), **info) -> MemoryShards:
    """A data set of patches for `tiny_settings`; `info` replaces fields of its `BuildInfo`."""
    splits = {"train": list(train), "valid": list(valid)}
    sizes = {split: len(records) for split, records in splits.items()}
    records = [r for records in splits.values() for r in records]
    present = PictureModality.is_present
    missing = {"image": sum(not present(r.contents["image"]) for r in records)}
    described = {
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
    return MemoryShards(splits, BuildInfo(**described | info))


@functools.cache
def tokenizer() -> Tokenizer:
    """A vocabulary that has every word of `products` whole."""
    words = [*COLOURS, *BRANDS, *FIBRES, "colour", "brand", "fibre", "thing", "of", "a"]
    numbers = [str(n) for n in range(200)]
    with tempfile.TemporaryDirectory() as folder:
        train_wordpiece(count_words((words + numbers) * 20), 1000, folder)
        return Tokenizer.load(pathlib.Path(folder))


def inputs(*shard_sets: MemoryShards) -> Inputs:
    """What batches are made from, for data sets in memory."""
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


def examples_of(
    records: list[Record],
    settings: Settings,
    vocabulary: ValueVocabulary | None = None,
    *,
    seed: int = 0,
    training: bool = True,
) -> list[PretrainingExample]:
    """An example of each record; the vocabulary is that of the records if None."""
    if vocabulary is None:
        vocabulary = inputs(memory_shards(records)).vocabulary
    build = ExampleBuilder(BatchLayout.of(settings), tokenizer(), vocabulary, training=training)
    return [build(ItemView.of(r), np.random.default_rng((seed, i))) for i, r in enumerate(records)]


def collated(
    examples: list[PretrainingExample | None], settings: Settings, seed: int = 0
) -> dict[str, np.ndarray]:
    """The training batch of examples, whole groups of them."""
    return BatchLayout.of(settings).collate(examples, range(len(examples)), seed)
