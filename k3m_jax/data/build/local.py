"""Building a data set: catalogue in, shards out.

Two passes over the catalogue. The first reads the text alone: which lines are usable, which splits
there are, which pictures the codebook is fitted to. The second makes the records, in worker
processes, and hands them to the TFDS builder. `beam_building` does the same on many machines."""

import abc
import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import itertools
import json
import pathlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.catalog_scan import CatalogScan, ParsedLine, hash_of
from k3m_jax.data.build.record_builder import PatchDescriber, RecordBuilder
from k3m_jax.data.build.shuffler import Shuffler
from k3m_jax.data.build.statistics import DatasetStatistics
from k3m_jax.data.catalog import pairs
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.catalog.region_features import first_sizes, open_region_features
from k3m_jax.data.input.tokenizer import train_wordpiece
from k3m_jax.data.records import InvalidRecordError, RejectedLine
from k3m_jax.data.store import codebook as codebooks
from k3m_jax.data.store import shards
from k3m_jax.data.workers import ordered_map
from k3m_jax.settings import UserError


class Build(abc.ABC):
    """A build under way: what the TFDS builders of `shards` ask.

    Attributes:
      catalogue: what is read.
      maker: makes a record of each usable line of it.
      sizes: of the records' arrays.
    """

    def __init__(self, arguments: BuildArguments):
        """Makes the first pass; raises UserError where the input can't become a data set."""
        arguments.check()
        self.arguments = a = arguments
        self.catalogue = open_catalog(a.format, a.input)
        self._pairs = pairs.read_pairs(a.input, own_splits=not a.folds)
        self.survey = self._survey()
        if not self.survey.splits or ("train" not in self.survey.splits and not a.codebook):
            wanted = "" if a.codebook else " for the train split"
            raise UserError(
                f"{a.input} has no usable record{wanted}"
                + (f": {_reasons(self.survey.rejects)}" if self.survey.rejects else "")
            )
        maker = RecordBuilder(
            self.catalogue, a.image_size, a.patch_size, None, splitting=a.splitting
        )
        if a.front_end == "patches":
            self.maker = dataclasses.replace(maker, codebook=self._fit(maker))
            self.sizes = {"feature_dim": a.patch_size**2 * 3, "top_classes": 1}
        else:
            features = open_region_features(a.region_features)
            ids = (found.product.id for found in self.survey.sample())
            found = first_sizes(features, ids, a.top_classes)
            self.maker = dataclasses.replace(maker, region_features=features, region_sizes=found)
            self.sizes = {"feature_dim": found.feature_dim, "top_classes": found.top_classes}
            self._classes = found.classes

    @property
    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return sorted(self.survey.splits, key=lambda s: (s != "train", s != "valid", s))

    def new_tally(self) -> DatasetStatistics:
        """An empty one."""
        return DatasetStatistics(
            bool(self.arguments.vocabulary_size), pairs.paired_ids(self._pairs)
        )

    @abc.abstractmethod
    def tally(self) -> DatasetStatistics:
        """Of all records, once the shards are written."""

    def check_splits(self) -> None:
        """Raises UserError where no record of a split could be made; of a whole `tally`."""
        tally = self.tally()
        for split in self.splits:
            if not tally.products[split]:
                reasons = _reasons(self.survey.rejects + tally.rejects)
                raise UserError(f"no record of split {split!r} is usable: {reasons}")

    def finish(self, folder: epath.Path) -> None:
        """Writes what lies beside the shards, build.json last."""
        a, codebook, tally = self.arguments, self.maker.codebook, self.tally()
        if codebook is not None:
            codebook.save(folder / shards.CODEBOOK)
        table = {p: dict(sorted(values.items())) for p, values in sorted(tally.values.items())}
        (folder / shards.VALUES).write_text(json.dumps(table, ensure_ascii=False))
        paired = pairs.resolve_pairs(self._pairs, tally.paired, self._view, bool(a.folds))
        paired.write(folder)
        rejects = sorted(
            self.survey.rejects + tally.rejects + paired.rejects, key=lambda r: (r.file, r.line)
        )
        with (folder / shards.REJECTS).open("w") as file:
            for reject in rejects:
                file.write(json.dumps(dataclasses.asdict(reject), ensure_ascii=False) + "\n")
        if a.vocabulary_size:
            train_wordpiece(tally.words(), a.vocabulary_size, folder / shards.TOKENIZER)
        patches = codebook is not None
        shards.BuildInfo(
            front_end=a.front_end,
            image_size=a.image_size,
            patch_size=a.patch_size if patches else 0,
            regions=(a.image_size // a.patch_size) ** 2 if patches else tally.regions,
            classes=len(codebook.centres) if patches else max(self._classes, tally.classes),
            **self.sizes,
            products={split: tally.products[split] for split in self.splits},
            missing=dict(tally.missing),
            repaired=dict(sorted((tally.repaired + paired.repaired).items())),
            rejects=dict(collections.Counter(r.reason for r in rejects).most_common()),
            fingerprint=f"{tally.fingerprint:064x}",
            version=_version(),
            arguments={
                key: value
                for key, value in dataclasses.asdict(a).items()
                if key not in ("output", "workers", "overwrite", "beam_options")
            },
            pairs=dict(sorted(collections.Counter(p.split for p in paired.pairs).items())),
        ).write(folder)

    @abc.abstractmethod
    def _survey(self) -> CatalogScan:
        """The first pass."""

    def _view(self, path: str) -> bytes:
        """A further picture of an item, as it is stored."""
        if self.arguments.front_end == "regions":
            raise InvalidRecordError(
                "pair_of_unknown_picture", f"{path!r}: region features are of first pictures alone"
            )
        return self.maker.picture(path)

    def _fit(self, maker: RecordBuilder) -> codebooks.Codebook:
        a = self.arguments
        if a.codebook:
            return shards.open_shards(a.codebook).codebook_of(a.image_size, a.patch_size)
        lines = [raw for raw, product in self.survey.sample() if product.picture]
        described = ordered_map(PatchDescriber(maker), lines, a.workers)
        found = list(tqdm(described, "codebook", len(lines), unit=" pictures"))
        descriptors = np.concatenate(found) if found else np.zeros((0, 0), np.float32)
        return codebooks.fit(descriptors, a.codebook_size, a.patch_size)


class LocalBuild(Build):
    """On this machine."""

    def __init__(self, arguments: BuildArguments, scratch: pathlib.Path):
        """`scratch` is a folder for the records until they are in order."""
        self._scratch = scratch
        super().__init__(arguments)
        self._tally = self.new_tally()

    def tally(self) -> DatasetStatistics:
        """Of all records, once `files` was called."""
        return self._tally

    def files(self) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        """By split, for each of its files what gives the (id, record) pairs of it, in turn."""
        a = self.arguments
        shufflers = {split: Shuffler(self._scratch / split, split) for split in self.splits}
        rejected = {(r.file, r.line) for r in self.survey.rejects}
        lines = (raw for raw in self.catalogue.lines() if (raw.file, raw.line) not in rejected)
        made = ordered_map(self.maker, lines, a.workers)
        for outcome in tqdm(made, "making", self.survey.usable, unit=" records"):
            self._tally.add(outcome)
            if not isinstance(outcome, RejectedLine):
                key = outcome.record["id"].encode()
                shufflers[outcome.split].add(key, pickle.dumps(outcome.record))
        self.check_splits()
        return {split: _cut(shuffler, a.shards) for split, shuffler in shufflers.items()}

    def _survey(self) -> CatalogScan:
        survey = CatalogScan(self.arguments.splitting)
        ids: set[bytes] = set()
        for raw in tqdm(self.catalogue.lines(), "reading", unit=" records"):
            try:
                product = self.catalogue.parse(raw)
                if (key := hash_of(product.id)) in ids:
                    raise repeated(product.id)
                ids.add(key)
            except InvalidRecordError as rejected:
                survey.add(RejectedLine(raw.file, raw.line, rejected.reason, rejected.detail))
            else:
                survey.add(ParsedLine(raw, product))
        return survey


def build(arguments: BuildArguments) -> shards.ShardSet:
    """Builds a data set and opens it; raises UserError where the input can't become one."""
    if arguments.beam_options:
        return _beam_building().build(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        job = LocalBuild(arguments, pathlib.Path(scratch))
        builder = shards.K3mProducts(config=arguments.front_end, data_dir=arguments.output, job=job)
        prepare(builder, arguments, download_dir=scratch)
    return shards.open_shards(arguments.folder)


def report(made: shards.ShardSet, seconds: float) -> str:
    """What was built, what was set aside, and what to run next."""
    info, items = made.info, sum(made.info.products.values())
    size = sum(path.stat().length for path in made.folder.glob("*.array_record*"))
    options = f"--config=configs/k3m_base.py --config.data.sources={made.folder} " + " ".join(
        f"--config.image.{key}={getattr(info, key)}"
        for key in ("front_end", "regions", "patch_size" if info.patch_size else "feature_dim")
    )
    return f"""\
{items} items {json.dumps(info.products)}, {size / items / 1e3:.1f} kB each, in {seconds:.0f} s
  missing    {json.dumps(info.missing)}
  repaired     {json.dumps(info.repaired)}
  pairs      {json.dumps(info.pairs)}
  set aside  {json.dumps(info.rejects)}: {made.folder / shards.REJECTS}
next: python -m launch.show_batch {options}
      python -m launch.pretrain --workdir=runs/first {options}"""


def prepare(
    builder: tfds.core.DatasetBuilder,
    arguments: BuildArguments,
    download_dir: epath.PathLike,
    kind: type[tfds.download.DownloadConfig] = tfds.download.DownloadConfig,
    **options: Any,
) -> None:
    """Has a TFDS builder write its data set; `options` are those of its DownloadConfig."""
    if arguments.overwrite:
        options["download_mode"] = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    tfds.disable_progress_bar()  # the job shows its own, which knows how many records there are
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download there is none of,
        builder.download_and_prepare(
            download_dir=download_dir,  # and makes a folder for it
            download_config=kind(try_download_gcs=False, **options),
        )


def repeated(item: str) -> InvalidRecordError:
    """Of several lines with one id, what is wrong with all but the first."""
    return InvalidRecordError("repeated_id", f"an earlier record has id {item!r}")


def _beam_building():
    try:
        from k3m_jax.data.build import beam  # an extra, and seconds to import
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise UserError(
            "--beam_options: Apache Beam is not installed: pip install -r requirements-beam.txt"
        ) from error
    return beam


def _cut(shuffler: Shuffler, wanted: int) -> list[Callable[[], Iterator]]:
    count = shards.files_of(shuffler.items, shuffler.bytes, wanted)
    records = map(pickle.loads, iter(shuffler))
    pairs = ((record["id"], record) for record in records)
    ends = [shuffler.items * i // count for i in range(count + 1)]
    return [functools.partial(itertools.islice, pairs, b - a) for a, b in itertools.pairwise(ends)]


def _reasons(rejects: Sequence[RejectedLine]) -> str:
    counts = collections.Counter(r.reason for r in rejects).most_common()
    first = min(rejects, key=lambda r: (r.file, r.line))
    return (
        ", ".join(f"{n} {reason}" for reason, n in counts)
        + f"; the first in {first.file} line {first.line}: {first.detail}"
    )


def _version() -> str:
    try:
        return importlib.metadata.version("k3m_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"
