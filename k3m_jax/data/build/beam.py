"""The same build by Apache Beam: on many machines, or in the processes of one.

A runner hands nothing back but what its pipeline writes. So each of the two passes is a pipeline
that adds its part of the catalogue up, as the build on one machine does, and leaves the sum in a
file; between them the codebook is fitted here. TFDS writes the shards, through Beam too.
"""

import contextlib
import functools
import pickle
import shlex
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath
from tensorflow_datasets.core.utils import shard_utils

from k3m_jax.data.build import local
from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.catalog_scan import CatalogScan, ParsedLine
from k3m_jax.data.build.statistics import DatasetStatistics
from k3m_jax.data.catalog.readers import Block, CatalogReader, RawLine
from k3m_jax.data.records import InvalidRecordError, RejectedLine
from k3m_jax.data.store import shards
from k3m_jax.settings import UserError

BLOCK_BYTES = 16 << 20  # of text that one worker reads at a time


class Build(local.Build):
    """A build by Beam's runner, which `--beam_options` name."""

    def __init__(self, arguments: BuildArguments, scratch: epath.Path):
        """`scratch` is a folder that this process and all workers can write to."""
        self._scratch = scratch
        self.options = PipelineOptions(shlex.split(arguments.beam_options))
        try:
            beam.Pipeline(options=self.options)
        except ValueError as error:  # a runner that there isn't, or flags that don't fit it
            raise UserError(f"--beam_options: {' '.join(str(error).split())}") from error
        super().__init__(arguments)

    @property
    def tallied(self) -> bool:
        """Whether the pipeline came as far as the tally."""
        return (self._scratch / "tally").exists()

    def tally(self) -> DatasetStatistics:
        """Of all records, once the pipeline of `records` has run."""
        return _read(self._scratch / "tally")

    def records(self, pipeline: beam.Pipeline) -> Mapping[str, beam.PCollection]:
        """By split, (id, record) pairs."""
        lines, _ = usable(pipeline, self.catalogue)
        made = lines | "Spread" >> beam.Reshuffle() | "Make" >> beam.Map(self.maker)
        _sum(made, self.new_tally, self._scratch / "tally")
        return {
            split: made | f"Of {split}" >> beam.FlatMap(_records_of, split) for split in self.splits
        }

    def _survey(self) -> CatalogScan:
        path = self._scratch / "survey"
        with beam.Pipeline(options=self.options) as pipeline:
            lines, rejects = usable(pipeline, self.catalogue)
            found = lines | "Find" >> beam.Map(_found, self.catalogue)
            _sum(
                (found, rejects) | "All" >> beam.Flatten(),
                functools.partial(CatalogScan, self.arguments.splitting),
                path,
            )
        return _read(path)


class BeamProducts(shards.ProductsBuilder, tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The data set of `shards.K3mProducts`, written by Beam."""

    name = shards.NAME

    def _split_generators(self, dl_manager, pipeline):
        return self._job.records(pipeline)

    def _generate_examples(self):
        raise NotImplementedError  # TFDS asks for the method where all splits come at once, too


def build(arguments: BuildArguments) -> shards.ShardSet:
    """As `building.build`; its records, their order and what lies beside them are the same.

    The shards are cut at other places: by ranges of the hash that shuffles the records.
    """
    with _folder_for_all(epath.Path(arguments.output)) as scratch:
        job = Build(arguments, scratch)
        builder = BeamProducts(config=arguments.front_end, data_dir=arguments.output, job=job)
        try:
            local.prepare(
                builder,
                arguments,
                download_dir=scratch,
                kind=_DownloadConfig,
                num_shards=arguments.shards,
                beam_options=job.options,
            )
        except Exception:
            # TFDS refuses a split without records within the pipeline, and so knows no reasons.
            if job.tallied:
                job.check_splits()
            raise
    return shards.open_shards(arguments.folder)


def usable(
    pipeline: beam.Pipeline, catalogue: CatalogReader
) -> tuple[beam.PCollection, beam.PCollection]:
    """The lines of a catalogue that are products, the first of each id; and the other lines.

    Returns:
      RawLines and Rejects.
    """
    blocks = catalogue.blocks(BLOCK_BYTES)
    numbers = pipeline | "Numbers" >> beam.Create(range(len(blocks)))
    spread = numbers | "Spread blocks" >> beam.Reshuffle()
    counts = spread | "Count" >> beam.Map(_count, blocks)
    lines = spread | "Read" >> beam.FlatMap(
        _read_block, blocks, catalogue, beam.pvalue.AsDict(counts)
    )
    parsed = lines | "Parse" >> beam.FlatMap(_parse, catalogue).with_outputs("bad", main="good")
    single = (
        parsed.good
        | "By id" >> beam.GroupByKey()
        | "First" >> beam.FlatMap(_first).with_outputs("bad", main="good")
    )
    return single.good, (parsed.bad, single.bad) | "Rejects" >> beam.Flatten()


class Sum(Protocol):
    """What can be summed up in parts, in any order."""

    def add(self, part: Any) -> None:
        """Counts one thing in."""

    def merge(self, other: Any) -> None:
        """Counts a sum of others in."""


class Summing(beam.CombineFn):
    """Sums of one kind as Beam wants them."""

    def __init__(self, make: Callable[[], Sum]):
        """`make` makes an empty one."""
        self._make = make

    def create_accumulator(self) -> Sum:
        """An empty sum."""
        return self._make()

    def add_input(self, total: Sum, part: Any) -> Sum:
        """The sum with one thing more."""
        total.add(part)
        return total

    def merge_accumulators(self, totals: Iterable[Sum]) -> Sum:
        """The sum of sums."""
        whole = self._make()
        for total in totals:
            whole.merge(total)
        return whole

    def extract_output(self, total: Sum) -> Sum:
        """The sum itself."""
        return total


def _sum(parts: beam.PCollection, make: Callable[[], Sum], path: epath.Path) -> None:
    total = parts | f"Sum {path.name}" >> beam.CombineGlobally(Summing(make))
    _ = total | f"Write {path.name}" >> beam.Map(_write, path)


def _write(total: Sum, path: epath.Path) -> None:
    path.write_bytes(pickle.dumps(total))


def _read(path: epath.Path) -> Any:
    return pickle.loads(path.read_bytes())


def _count(number: int, blocks: list[Block]) -> tuple[int, int]:
    return number, sum(1 for _ in blocks[number].lines())


def _read_block(
    number: int, blocks: list[Block], catalogue: CatalogReader, counts: Mapping[int, int]
) -> Iterator[RawLine]:
    """The lines of a block under their numbers in the file, for which the blocks before count."""
    block = blocks[number]
    before = sum(counts[i] for i in range(number) if blocks[i].file == block.file)
    return catalogue.lines_of(block, before + 1)


def _parse(raw: RawLine, catalogue: CatalogReader) -> Iterator[Any]:
    try:
        yield catalogue.parse(raw).id, raw
    except InvalidRecordError as rejected:
        reject = RejectedLine(raw.file, raw.line, rejected.reason, rejected.detail)
        yield beam.pvalue.TaggedOutput("bad", reject)


def _first(group: tuple[str, Iterable[RawLine]]) -> Iterator[Any]:
    item, lines = group
    first, *others = sorted(lines, key=lambda raw: (raw.file, raw.line))
    yield first
    for raw in others:
        reject = RejectedLine(raw.file, raw.line, *local.repeated(item).args)
        yield beam.pvalue.TaggedOutput("bad", reject)


def _found(raw: RawLine, catalogue: CatalogReader) -> ParsedLine:
    return ParsedLine(raw, catalogue.parse(raw))


def _records_of(outcome: Any, split: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not isinstance(outcome, RejectedLine) and outcome.split == split:
        yield outcome.record["id"].encode(), outcome.record


@contextlib.contextmanager
def _folder_for_all(output: epath.Path) -> Iterator[epath.Path]:
    scratch = output / f"scratch-{uuid.uuid4().hex[:12]}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        scratch.rmtree()


class _DownloadConfig(tfds.download.DownloadConfig):
    def get_shard_config(self) -> shard_utils.ShardConfig:
        return _ShardConfig(num_shards=self.num_shards)


class _ShardConfig(shard_utils.ShardConfig):
    """TFDS alone makes one file of anything below 128 MB, and fails on more files than items."""

    def get_number_shards(self, total_size, num_examples, uses_precise_sharding=True) -> int:
        return shards.files_of(num_examples, total_size, self.num_shards)
