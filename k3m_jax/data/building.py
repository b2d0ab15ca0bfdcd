"""Building a data set: catalogue in, shards out.

Two passes over the catalogue. The first reads the text alone: which lines are usable, which split
each belongs to, which pictures the codebook is fitted to. The second makes the records, in worker
processes, and hands them to the TFDS builder."""

import array
import collections
import contextlib
import dataclasses
import hashlib
import heapq
import importlib.metadata
import io
import json
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.utils import shard_utils
from tqdm import tqdm

from k3m_jax.data import codebook as codebooks
from k3m_jax.data import shards
from k3m_jax.data.build_arguments import BuildArguments
from k3m_jax.data.catalogues import RawLine, open_catalogue
from k3m_jax.data.record_maker import Describer, Made, RecordMaker
from k3m_jax.data.records import Product, Reject, RejectedRecord, split_of
from k3m_jax.data.region_features import first_sizes, open_region_features
from k3m_jax.data.tokenization import train_wordpiece
from k3m_jax.data.workers import ordered_map
from k3m_jax.settings import UserError

SAMPLED = 1000  # train products that the codebook and the sizes of regions are taken from
SHARD_BYTES = 32 << 20  # of one file, where --shards doesn't say how many there are


class Build:
    """A build under way: the `shards.Job` that the TFDS builder asks."""

    def __init__(self, arguments: BuildArguments):
        """Makes the first pass; raises UserError where the input can't become a data set."""
        arguments.check()
        self.arguments = a = arguments
        self.catalogue = open_catalogue(a.format, a.input)
        self.rejects: list[Reject] = []
        self._splits: list[str] = []
        self._plan = array.array("h")  # per line: index of its split, or -1
        self._counts = {
            "products": collections.Counter(),
            "missing": collections.Counter(picture=0, title=0, triples=0),
            "mended": collections.Counter(),
        }
        self._values = collections.defaultdict(collections.Counter)
        self._fingerprint = self._regions = self._classes = 0
        maker = RecordMaker(self.catalogue, a.image_size, a.patch_size, None)
        if a.front_end == "patches":
            self.maker = dataclasses.replace(maker, codebook=self._fit(maker, self._scan()))
            self.sizes = {"feature_dim": a.patch_size**2 * 3, "top_classes": 1}
        else:
            features = open_region_features(a.region_features)
            ids = (product.id for product, _ in self._scan())
            found = first_sizes(features, ids, a.top_classes)
            self.maker = dataclasses.replace(maker, region_features=features, region_sizes=found)
            self.sizes = {"feature_dim": found.feature_dim, "top_classes": found.top_classes}
            self._classes = found.classes

    @property
    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return sorted(self._splits, key=lambda s: (s != "train", s != "valid", s))

    def examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, record) of every usable item of a split, in the order of the catalogue."""
        code = self._splits.index(split)
        lines = (
            raw for raw, c in zip(self.catalogue.lines(), self._plan, strict=True) if c == code
        )
        made = ordered_map(self.maker, lines, self.arguments.workers)
        for outcome in tqdm(made, split, self._plan.count(code), unit=" records"):
            if isinstance(outcome, Reject):
                self.rejects.append(outcome)
            else:
                self._count(split, outcome)
                yield outcome.record["id"], outcome.record
        if not self._counts["products"][split]:
            raise UserError(f"no record of split {split!r} is usable: {self._reasons()}")

    def finish(self, folder: epath.Path) -> None:
        """Writes what lies beside the shards, build.json last."""
        a, codebook = self.arguments, self.maker.codebook
        if codebook is not None:
            codebook.save(folder / shards.CODEBOOK)
        table = {p: dict(sorted(values.items())) for p, values in sorted(self._values.items())}
        (folder / shards.VALUES).write_text(json.dumps(table, ensure_ascii=False))
        with (folder / shards.REJECTS).open("w") as file:
            for reject in sorted(self.rejects, key=lambda r: (r.file, r.line)):
                file.write(json.dumps(dataclasses.asdict(reject), ensure_ascii=False) + "\n")
        if a.vocabulary_size:
            train_wordpiece(self._texts(), a.vocabulary_size, folder / shards.TOKENIZER)
        patches = codebook is not None
        shards.BuildInfo(
            front_end=a.front_end,
            image_size=a.image_size,
            patch_size=a.patch_size if patches else 0,
            regions=(a.image_size // a.patch_size) ** 2 if patches else self._regions,
            classes=len(codebook.centres) if patches else self._classes,
            **self.sizes,
            **{name: dict(counter) for name, counter in self._counts.items()},
            rejects=dict(collections.Counter(r.reason for r in self.rejects).most_common()),
            fingerprint=f"{self._fingerprint:064x}",
            version=_version(),
            arguments={
                key: value
                for key, value in dataclasses.asdict(a).items()
                if key not in ("output", "workers", "overwrite")
            },
        ).write(folder)

    def _scan(self) -> list[tuple[Product, RawLine]]:
        """Fills the plan; gives a sample of the train products that name a picture.

        The sample is those whose id has the smallest hash: the same one in any order of lines.
        """
        sample: list[tuple[int, int, Product, RawLine]] = []  # a heap, the largest hash on top
        ids: set[bytes] = set()
        for number, raw in enumerate(tqdm(self.catalogue.lines(), "reading", unit=" records")):
            try:
                product = self.catalogue.parse(raw)
                key = hashlib.blake2b(product.id.encode(), digest_size=16).digest()
                if key in ids:
                    raise RejectedRecord("repeated_id", f"an earlier record has id {product.id!r}")
                ids.add(key)
            except RejectedRecord as rejected:
                self._plan.append(-1)
                self.rejects.append(Reject(raw.file, raw.line, rejected.reason, rejected.detail))
                continue
            split = split_of(product, self.arguments.valid_fraction)
            if split not in self._splits:
                self._splits.append(split)
            self._plan.append(self._splits.index(split))
            if split == "train":
                entry = (-int.from_bytes(key, "big"), number, product, raw)
                add = heapq.heappush if len(sample) < SAMPLED else heapq.heappushpop
                add(sample, entry)
        if not sample:
            raise UserError(
                f"{self.arguments.input} has no usable record for the train split"
                + (f": {self._reasons()}" if self.rejects else "")
            )
        return [(product, raw) for _, _, product, raw in sorted(sample, reverse=True)]

    def _fit(self, maker: RecordMaker, sample: list[tuple[Product, RawLine]]) -> codebooks.Codebook:
        a = self.arguments
        lines = [raw for product, raw in sample if product.picture]
        described = ordered_map(Describer(maker), lines, a.workers)
        found = list(tqdm(described, "codebook", len(lines), unit=" pictures"))
        descriptors = np.concatenate(found) if found else np.zeros((0, 0), np.float32)
        return codebooks.fit(descriptors, a.codebook_size, a.patch_size)

    def _count(self, split: str, made: Made) -> None:
        record = made.record
        self._counts["products"][split] += 1
        self._counts["missing"].update(
            {
                "picture": not (record["picture"] if self.maker.codebook else len(record["boxes"])),
                "title": not record["title"],
                "triples": not record["values"],
            }
        )
        self._counts["mended"].update(made.notes)
        for property_, value in zip(record["properties"], record["values"], strict=True):
            self._values[property_][value] += split == "train"
        self._fingerprint = (self._fingerprint + _digest(split, record)) % 2**256
        if not self.maker.codebook:
            self._regions = max(self._regions, len(record["boxes"]))
            self._classes = max(self._classes, int(record["class_ids"].max(initial=-1)) + 1)

    def _texts(self) -> Iterator[str]:
        """What the tokenizer is trained on: the titles and triples of train's records."""
        rejected = {(r.file, r.line) for r in self.rejects}
        for raw, code in zip(self.catalogue.lines(), self._plan, strict=True):
            if code == self._splits.index("train") and (raw.file, raw.line) not in rejected:
                product = self.catalogue.parse(raw)
                yield product.title
                for property_, value in product.triples:
                    yield property_
                    yield value

    def _reasons(self) -> str:
        counts = collections.Counter(r.reason for r in self.rejects).most_common()
        first = self.rejects[0]
        return (
            ", ".join(f"{n} {reason}" for reason, n in counts)
            + f"; the first in {first.file} line {first.line}: {first.detail}"
        )


def build(arguments: BuildArguments) -> shards.ShardSet:
    """Builds a data set and opens it; raises UserError where the input can't become one."""
    job = Build(arguments)
    builder = shards.K3mProducts(config=arguments.front_end, data_dir=arguments.output, job=job)
    mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS if arguments.overwrite else None
    tfds.disable_progress_bar()  # the job shows its own, which knows how many records there are
    with (
        contextlib.redirect_stdout(io.StringIO()),  # TFDS tells of a download there is none of,
        tempfile.TemporaryDirectory() as unused,  # and makes a folder for it
    ):
        builder.download_and_prepare(
            download_dir=unused,
            download_config=_DownloadConfig(
                num_shards=arguments.shards or None,
                try_download_gcs=False,
                **({"download_mode": mode} if mode else {}),
            ),
        )
    return shards.open_shards(arguments.folder)


class _DownloadConfig(tfds.download.DownloadConfig):
    def get_shard_config(self) -> shard_utils.ShardConfig:
        return _ShardConfig(num_shards=self.num_shards)


class _ShardConfig(shard_utils.ShardConfig):
    """TFDS alone makes one file of anything below 128 MB, and fails on more files than items."""

    def get_number_shards(self, total_size, num_examples, uses_precise_sharding=True) -> int:
        return min(self.num_shards or -(-total_size // SHARD_BYTES), num_examples)


def _digest(split: str, record: dict[str, Any]) -> int:
    """A hash of one record's content; their sum is a hash of the set."""
    digest = hashlib.sha256(split.encode())
    for key, value in sorted(record.items()):
        data = (
            value
            if isinstance(value, bytes)
            else (value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode())
        )
        digest.update(f"\0{key}\0{len(data)}\0".encode() + data)
    return int.from_bytes(digest.digest(), "big")


def _version() -> str:
    try:
        return importlib.metadata.version("k3m_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"
