"""The second pass by Apache Beam: on many machines, or in the processes of one.

A runner returns nothing but what its pipeline writes: the statistics come back in a file. TFDS
writes the shards, through Beam too.
"""

import copy
import functools
import itertools
import pickle
import shlex
from collections.abc import Iterator

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_datasets.core.utils import shard_utils

from k3m_jax.data.build.record_builder import BuiltRecord, DatasetStatistics
from k3m_jax.data.records import RejectedLine
from k3m_jax.data.store import shards
from k3m_jax.settings import UserError

BLOCK_LINES = 10_000  # that one worker reads at a time


def pipeline_options(flags: str) -> PipelineOptions:
    """Beam's own flags; raises UserError for a runner that there isn't, or flags that don't fit."""
    options = PipelineOptions(shlex.split(flags))
    try:
        beam.Pipeline(options=options)
    except ValueError as error:
        raise UserError(f"--beam_options: {' '.join(str(error).split())}") from error
    return options


class BeamProducts(shards.ProductsBuilder, tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The data set of `shards.K3mProducts`, written by Beam.

    Records, their order and what lies next to them are the same. The shards are cut at other
    places: by ranges of the hash that shuffles the records.
    """

    name = shards.NAME

    def _split_generators(self, dl_manager, pipeline):
        """By split, (id, TFDS example) pairs."""
        job, size = self._job, BLOCK_LINES
        catalog, sums = job.catalog, job.sums  # workers get these alone
        rejected = {(reject.file, reject.line) for reject in job.rejects}
        built = (
            pipeline
            | "Blocks" >> beam.Create(catalog.blocks(size))
            | "Spread blocks" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(lambda b: itertools.islice(catalog.lines_from(*b[:3]), b[3]))
            | "Usable" >> beam.Filter(lambda raw: raw[:2] not in rejected)
            | "Spread lines" >> beam.Reshuffle()
            | "Build" >> beam.Map(job.builder)
        )
        total = built | "Sum" >> beam.CombineGlobally(_Summing(job.statistics))
        _ = total | "Write" >> beam.Map(lambda found: sums.write_bytes(pickle.dumps(found)))
        lines = built | "Repairs" >> beam.FlatMap(_repairs)
        _ = lines | "Write repairs" >> beam.io.WriteToText(
            str(job.repairs), num_shards=1, shard_name_template=""
        )
        return {
            split: built | f"Of {split}" >> beam.FlatMap(_examples, split) for split in job.splits
        }

    def _generate_examples(self):
        raise NotImplementedError  # TFDS requires the method where all splits come at once, too


class _Summing(beam.CombineFn):
    def __init__(self, empty: DatasetStatistics):
        self.create_accumulator = functools.partial(copy.deepcopy, empty)

    def add_input(self, total, outcome):
        total.add(outcome)
        return total

    def merge_accumulators(self, totals):
        whole = self.create_accumulator()
        for total in totals:
            whole.merge(total)
        return whole

    def extract_output(self, total):
        return total


def _examples(outcome: BuiltRecord | RejectedLine, split: str) -> Iterator[tuple[bytes, dict]]:
    if not isinstance(outcome, RejectedLine) and outcome.split == split:
        yield outcome.record.id.encode(), shards.to_example(outcome.record)


def _repairs(outcome: BuiltRecord | RejectedLine) -> list[str]:
    lines = "" if isinstance(outcome, RejectedLine) else outcome.repair_lines()
    return lines.split("\n")[:-1]


class DownloadConfig(tfds.download.DownloadConfig):
    """TFDS alone makes one file of anything below 128 MB, and fails on more files than items."""

    def get_shard_config(self) -> shard_utils.ShardConfig:
        """As many files as without Beam."""
        return _ShardConfig(num_shards=self.num_shards)


class _ShardConfig(shard_utils.ShardConfig):
    def get_number_shards(self, total_size, num_examples, uses_precise_sharding=True) -> int:
        return shards.files_of(num_examples, total_size, self.num_shards)
