"""Building a data set, on this machine or by Apache Beam, and the command's report.

The first pass over the catalog reads the text alone: which lines are usable, and the splits. The
second makes the records and hands them to the TFDS builder.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import heapq
import io
import itertools
import json
import pickle
import shlex
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import hashing
from tqdm import tqdm

from k3m_jax import __version__
from k3m_jax.data.build.record_builder import DatasetStatistics, RecordBuilder
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.catalog.region_features import RegionReader
from k3m_jax.data.input.tokenizer import train_wordpiece
from k3m_jax.data.records import Product, RejectedLine, Splitting
from k3m_jax.data.store import codebook as codebooks
from k3m_jax.data.store import integrity, lock, remote, shards
from k3m_jax.data.store.pairs import read_pairs, resolve_pairs
from k3m_jax.data.workers import ordered_map
from k3m_jax.settings import Backbone, UserError, schema
from k3m_jax.settings.schema import Fraction, NonNegativeInt, PositiveInt, option, required

SAMPLED = 1000  # train products that the codebook and the sizes of regions are taken from
INCIDENTAL = ("output", "workers", "overwrite", "beam_options")  # no data set depends on them
Examples = Iterator[tuple[str, dict[str, Any]]]  # id and features


@dataclasses.dataclass(frozen=True)
class BuildArguments:
    """What a data set is built from and how: the flags of launch.build_shards."""

    format: str = required("how the products are written")
    input: str = required("folder of the products, or the file of a table")
    output: str = required("folder to put the data set in, local or remote")
    mapping: str = option("", "of a table: a preset, or a .toml file that names its columns")
    pictures: str = option("", "folder that the pictures' paths begin at; the input's if empty")
    front_end: Literal["patches", "regions"] = option("patches", "regions: of --region_features")
    image_size: PositiveInt = option(192, "pixels a side of the stored picture")
    patch_size: PositiveInt = option(32, "pixels a side of a patch")
    codebook_size: Annotated[int, schema.Range(2)] = option(256, "most classes of patches")
    codebook: str = option("", "data set to take the classes of patches from")
    vocabulary_size: NonNegativeInt = option(8000, "tokens of the trained tokenizer; 0: none")
    region_features: str = option("", "TSV of bottom-up-attention tools, .npz, or folder of .npz")
    top_classes: PositiveInt = option(8, "most probable classes kept per region")
    shards: NonNegativeInt = option(0, "files per split; 0: by size, 32 MB each")
    workers: NonNegativeInt = option(0, "worker processes; 0: none but this one")
    valid_fraction: Fraction = option(0.05, "share of products without a split held out as `valid`")
    folds: NonNegativeInt = option(0, "parts to cut the products into, whatever splits they name")
    fold: NonNegativeInt = option(0, "the part held out as `test`, from 0")
    strict: bool = option(False, "reject a record of which a part can't be used as it is")
    overwrite: bool = option(False, "replace the data set that --output already has")
    beam_options: str = option("", "build with Apache Beam and these flags of its own")

    @property
    def folder(self) -> epath.Path:
        """Where the data set is written to."""
        return epath.Path(self.output) / shards.NAME / self.front_end / shards.FORMAT_VERSION

    def check(self) -> None:
        """Raises UserError for the first contradiction."""
        for each in schema.settings_of(self):
            schema.parse(each.kind, each.default, f"--{each.name}")
        if (self.front_end == "regions") != bool(self.region_features):
            raise UserError("--front_end=regions and --region_features go together: give both")
        schema.check_multiple("--image_size", self.image_size, "--patch_size", self.patch_size)
        if self.front_end == "patches":
            schema.check_multiple("--patch_size", self.patch_size, "the grid", codebooks.GRID)
        elif self.codebook:
            raise UserError("--codebook is of patches: regions have the classes of their detector")
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            flags = f"--folds={self.folds} --fold={self.fold}"
            raise UserError(f"{flags}: folds are 0 or 2 and more, and the fold is one, from 0 on")
        if self.folder.exists() and not self.overwrite:
            hint = "choose another --output, or replace it with --overwrite"
            raise UserError(f"{self.folder} exists: {hint}")


class Build:
    """A build under way: `builder` makes records of `catalog`, of lines not in `rejects`.

    `splits` has train first; `statistics` are of all records once they are built: a pipeline leaves
    them in the file `sums`.
    """

    def __init__(self, arguments: BuildArguments, scratch: epath.PathLike):
        """Makes the first pass; raises UserError where the input can't become a data set.

        `scratch` is a folder that this process, and all workers of a pipeline, can write to.
        """
        arguments.check()
        a = self._arguments = arguments
        self._scratch, self.sums = epath.Path(scratch), epath.Path(scratch) / "sums"
        self.repairs = self._scratch / shards.REPAIRS
        options = {"strict": a.strict, "mapping": a.mapping, "pictures": a.pictures}
        self.catalog = open_catalog(a.format, a.input, **options)
        self._pairs, self._bad_pairs = read_pairs(a.input, own_splits=not a.folds)
        paired = frozenset(item for _, pair in self._pairs for item in (pair.a, pair.b))
        self.statistics = DatasetStatistics(paired)
        splitting = Splitting(a.valid_fraction, a.fold, a.folds)
        self._products: dict[str, np.ndarray] = {}
        self.rejects: list[RejectedLine] = []
        self._usable = collections.Counter[str]()  # lines by split
        # Those whose ids have the smallest hashes, of train first: the same in any order of lines.
        sample = heapq.nsmallest(SAMPLED, self._scan(splitting))
        self.splits = sorted(self._usable, key=lambda s: (s != "train", s != "valid", s))
        evaluated = a.codebook or (a.front_end == "regions" and not a.vocabulary_size)
        if not self.splits or ("train" not in self.splits and not evaluated):
            wanted = "" if evaluated else " for the train split"
            raise UserError(f"{a.input} has no usable record{wanted}{_reasons(self.rejects)}")
        builder = RecordBuilder(self.catalog, a.image_size, a.patch_size, splitting=splitting)
        if a.front_end == "regions":
            ids = (product.id for _, product in sample)
            regions = RegionReader(a.region_features, ids, a.top_classes)
            self.builder = dataclasses.replace(builder, regions=regions)
        else:
            sample = [product for (later, _), product in sample if not later]
            self.builder = dataclasses.replace(builder, codebook=self._codebook(sample, builder))

    def files(self) -> Mapping[str, list[Callable[[], Examples]]]:
        """By split, what gives the examples of each of its files; called in turn.

        Records wait on disk, and leave it in the order of the hash of ids that TFDS shuffles by,
        with Beam too. Its own shuffling of more than memory holds needs TensorFlow.
        """
        waiting = sqlite3.connect(self._scratch / "records")
        waiting.execute("CREATE TABLE records (split, hash, product, record)")
        hashers = {split: hashing.Hasher(split) for split in self.splits}
        rejected = {(reject.file, reject.line) for reject in self.rejects}
        lines = (raw for raw in self.catalog.lines() if raw[:2] not in rejected)
        built = ordered_map(self.builder, lines, self._arguments.workers)
        with self.repairs.open("w") as repairs:
            for outcome in tqdm(built, "building", self._usable.total(), unit=" records"):
                self.statistics.add(outcome)
                if not isinstance(outcome, RejectedLine):
                    repairs.write(outcome.repair_lines())
                    record = outcome.record
                    key = hashers[outcome.split].hash_key(record.id.encode()).to_bytes(16, "big")
                    row = outcome.split, key, record.product, pickle.dumps(record)
                    waiting.execute("INSERT INTO records VALUES (?, ?, ?, ?)", row)
        for split in [s for s in self.splits if s != "train" and not self.statistics.products[s]]:
            self.splits.remove(split)
            print(f"no record of split {split!r} is usable: it is left out", file=sys.stderr)
        self.check_splits()
        waiting.execute("CREATE INDEX in_order ON records (split, hash)")
        sizes = "SELECT COUNT(*), SUM(LENGTH(record)) FROM records WHERE split = ?"
        in_order = "SELECT {} FROM records WHERE split = ? ORDER BY hash"
        query, files = in_order.format("record"), {}
        for split in self.splits:
            items, size = waiting.execute(sizes, (split,)).fetchone()
            products = waiting.execute(in_order.format("product"), (split,))
            hashes = (shards.product_hash(name) for (name,) in products)
            self._products[split] = np.fromiter(hashes, np.int64, items)
            count = shards.files_of(items, size, self._arguments.shards)
            ends, records = np.arange(count + 1) * items // count, waiting.execute(query, (split,))
            files[split] = [functools.partial(_examples, records, n) for n in np.diff(ends)]
        return files

    def check_splits(self) -> None:
        """Raises UserError where no record of a split could be built."""
        if self.sums.exists():
            self.statistics = pickle.loads(self.sums.read_bytes())
        for split in self.splits:
            if not self.statistics.products[split]:
                reasons = _reasons(self.rejects + self.statistics.rejects)
                raise UserError(f"no record of split {split!r} is usable{reasons}")

    def finish(self, folder: epath.Path) -> None:
        """Writes what lies next to the shards, once all of them are written; build.json last."""
        self.check_splits()
        a, codebook, found = self._arguments, self.builder.codebook, self.statistics
        table = {p: dict(sorted(values.items())) for p, values in sorted(found.values.items())}
        (folder / shards.VALUES).write_text(json.dumps(table, ensure_ascii=False))
        if self._products:
            with (folder / shards.PRODUCTS).open("wb") as file:
                np.savez(file, **self._products)
        pairs = resolve_pairs(self._pairs, found.paired, self.builder.view, bool(a.folds))
        pairs.write(folder)
        if pairs.rematched:
            found.repaired["negative_pair_rematched"] = pairs.rematched
        rejects = sorted(self.rejects + found.rejects + self._bad_pairs + pairs.rejects)
        lines = (json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in rejects)
        (folder / shards.REJECTS).write_text("".join(lines))
        self.repairs.copy(folder / shards.REPAIRS)
        if a.vocabulary_size:
            train_wordpiece(found.words, a.vocabulary_size, folder / shards.TOKENIZER)
        if codebook is not None:
            codebook.save(folder / shards.CODEBOOK)
            patch_size, classes = a.patch_size, len(codebook.centres)
            regions = (a.image_size // patch_size) ** 2
        else:
            patch_size, regions = 0, found.sizes["regions"]
            classes = max(found.sizes["classes"], self.builder.regions.sizes.classes)
        info = shards.BuildInfo(
            **self.builder.layout._asdict(),
            image_size=a.image_size,
            patch_size=patch_size,
            regions=regions,
            classes=classes,
            sizes=dict(found.sizes),
            backbone=self.builder.regions.backbone if self.builder.regions else Backbone(),
            products={split: found.products[split] for split in self.splits},
            missing=dict(found.missing),
            repaired=dict(sorted(found.repaired.items())),
            rejects=dict(collections.Counter(r.reason for r in rejects).most_common()),
            pairs=dict(sorted(collections.Counter(p.split for p in pairs.pairs).items())),
            fingerprint=f"{found.fingerprint:064x}",
            version=__version__,
            arguments={k: v for k, v in dataclasses.asdict(a).items() if k not in INCIDENTAL},
            files=integrity.describe(folder, shards.OF_TFDS),
        )
        remote.sync(folder)  # a power cut must not leave a data set of empty files
        info.write(folder)

    def _scan(self, splitting: Splitting) -> Iterator[tuple[tuple[bool, bytes], Product]]:
        """Makes the first pass; gives products, with whether not of train and their id's hash."""
        ids = set[bytes]()  # hashes: all of them must fit into memory
        for raw in tqdm(self.catalog.lines(), "reading", unit=" records"):
            line = self.catalog.read(raw)
            if isinstance(line, RejectedLine):
                self.rejects.append(line)
                continue
            key = hashlib.blake2b(line.id.encode(), digest_size=16).digest()
            if key in ids:
                detail = f"an earlier record has id {line.id!r}"
                self.rejects.append(RejectedLine(raw.file, raw.line, "repeated_id", detail))
                continue
            ids.add(key)
            self._usable[split := splitting(line)] += 1
            yield (split != "train", key), line

    def _codebook(self, sample: Sequence[Product], builder: RecordBuilder) -> codebooks.Codebook:
        a = self._arguments
        if a.codebook:
            other = shards.open_shards(a.codebook)
            sizes = other.info.image_size, other.info.patch_size
            if sizes != (a.image_size, a.patch_size):
                which = "--image_size and --patch_size"
                raise UserError(f"--codebook: {which} of {other.folder} are {sizes}")
            return other.codebook
        pictured = [product for product in sample if product.sources["image"]]
        described = ordered_map(builder.descriptors, pictured, a.workers)
        found = list(tqdm(described, "codebook", len(pictured), unit=" pictures"))
        descriptors = np.concatenate(found) if found else np.zeros((0, 0), np.float32)
        return codebooks.fit(descriptors, a.codebook_size, a.patch_size)


def build(arguments: BuildArguments, *, alone: bool = True) -> shards.ShardSet:
    """Builds a data set and opens it; raises UserError where the input can't become one.

    Not `alone`, others may build the same at the same time: the first to finish gives it its name.
    """
    arguments.check()
    name = f"{shards.NAME}-{arguments.front_end}.lock"
    lone = lock.hold(epath.Path(arguments.output) / name, "--output")
    with lone if alone else contextlib.nullcontext():
        return _build(arguments)


def _build(arguments: BuildArguments) -> shards.ShardSet:
    kind, config, options = shards.K3mProducts, tfds.download.DownloadConfig, {}
    if arguments.beam_options:
        try:
            from k3m_jax.data.build import beam  # an extra, and seconds to import
        except ModuleNotFoundError as error:
            if error.name != "apache_beam":
                raise
            needed = "Apache Beam is not installed: pip install -r requirements-beam.txt"
            raise UserError(f"--beam_options: {needed}") from error
        options["beam_options"] = beam.pipeline_options(arguments.beam_options)
        options["num_shards"] = arguments.shards
        kind, config = beam.BeamProducts, beam.DownloadConfig
        scratch = epath.Path(arguments.output) / f"scratch-{uuid.uuid4().hex[:12]}"
        scratch.mkdir(parents=True)
    else:
        scratch = epath.Path(tempfile.mkdtemp())
    if arguments.overwrite:
        options["download_mode"] = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    try:
        job = Build(arguments, scratch)
        builder = kind(config=arguments.front_end, data_dir=arguments.output, job=job)
        tfds.disable_progress_bar()  # ours knows how many records there are
        config = config(try_download_gcs=False, **options)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS reports a download
            builder.download_and_prepare(download_dir=scratch, download_config=config)
    except Exception:
        # TFDS refuses a split without records within the pipeline, and so knows no reasons.
        if (scratch / "sums").exists():
            job.check_splits()
        raise
    finally:
        scratch.rmtree()
    info = shards.BuildInfo.read(arguments.folder)
    of_tfds = {n: integrity.described(arguments.folder / n) for n in shards.OF_TFDS}
    dataclasses.replace(info, files={**info.files, **of_tfds}).write(arguments.folder)
    remote.sync(arguments.folder)
    return shards.open_shards(arguments.folder)


def report(built: shards.ShardSet, seconds: float) -> str:
    """What was built, what was set aside, and what to run next."""
    info, items = built.info, sum(built.info.products.values())
    size = sum(path.stat().length for path in built.folder.glob("*.array_record*"))
    source = shlex.quote(f"--config.data.sources={built.folder}")
    options = f"--config=configs/k3m_base.py {source} " + " ".join(
        f"--config.image.{key}={getattr(info, key)}"
        for key in ("front_end", "regions", "patch_size" if info.patch_size else "feature_dim")
    )
    return f"""\
{items} items {json.dumps(info.products)}, {size / items / 1e3:.1f} kB each, in {seconds:.0f} s
  missing    {json.dumps(info.missing)}
  repaired   {json.dumps(info.repaired)}: {built.folder / shards.REPAIRS}
  pairs      {json.dumps(info.pairs)}
  set aside  {json.dumps(info.rejects)}: {built.folder / shards.REJECTS}
next: python -m launch.show_batch {options}
      python -m launch.pretrain --workdir=runs/first {options}"""


def _examples(records: Iterator[tuple[bytes]], count: int) -> Examples:
    for (data,) in itertools.islice(records, count):
        record = pickle.loads(data)
        yield record.id, shards.to_example(record)


def _reasons(rejects: Sequence[RejectedLine]) -> str:
    if not rejects:
        return ""
    counts = collections.Counter(r.reason for r in rejects).most_common()
    listed, first = ", ".join(f"{n} {reason}" for reason, n in counts), min(rejects)
    return f": {listed}; the first in {first.file} line {first.line}: {first.detail}"
