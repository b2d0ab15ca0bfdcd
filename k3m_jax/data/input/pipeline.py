"""From shards to batches, with grain.

The order of items, their masks and their negatives are functions of the seed and of an item's place
in the run alone. So the n-th batch is the same whether the run was resumed or not, however many
hosts share it and however many workers prepare it; and the state of the whole pipeline is one
integer, the next step.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from k3m_jax.data.corruption import CorruptedSource
from k3m_jax.data.input.batch import Batch
from k3m_jax.data.input.collate import collate, link_answers
from k3m_jax.data.input.examples import ExampleBuilder, PretrainingExample
from k3m_jax.data.input.sources import classes, has_pictures, validate_sources
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.shards import ShardSet, open_shards
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.data.workers import leave_signals_to_parent
from k3m_jax.modalities.regions import RegionReader
from k3m_jax.settings import Corruption, Data, Settings, UserError
from k3m_jax.tasks.examples import with_classes
from k3m_jax.tasks.training_rows import TaskRows, task_examples

READY = 2  # batches that stand ready beside those that this process' threads are at
WORKER_ITEMS = 1024  # threads prepare about so many before a new process has begun
EVALUATION_SEED = 0  # not the run's: runs of other seeds are asked the same questions


class Inputs(NamedTuple):
    """What batches are made from; the arguments of `train_batches` in their order."""

    shard_sets: Sequence[ShardSet]
    tokenizer: Tokenizer
    table: ValueVocabulary

    def resolve(self, settings: Settings) -> Settings:
        """`settings` with the sizes that the data tell; UserError where they contradict."""
        validate_sources(settings, self.shard_sets)
        # Without any picture nothing tells classes, but the head of the model wants a size.
        size = max(1, classes(self.shard_sets))
        task = with_classes(settings.task, self.shard_sets, settings.data.train_split)
        settings = dataclasses.replace(settings, task=task)
        return settings.resolved(vocabulary=self.tokenizer.size, classes=size)


def open_inputs(data: Data) -> Inputs:
    """Opens what `data` names.

    Raises:
      UserError: no source is named, one cannot be opened, or there is no tokenizer.
    """
    if not data.sources:
        raise UserError(
            "data.sources is empty: write shards with python -m launch.build_shards and name them, "
            "--config.data.sources=\"('FOLDER',)\""
        )
    shard_sets = [open_shards(source) for source in data.sources]
    folder = data.tokenizer or shard_sets[0].tokenizer_folder
    if not folder:
        raise UserError(
            f"{data.sources[0]} was built without a tokenizer: name a folder in data.tokenizer"
        )
    table = ValueVocabulary.merge(shards.values for shards in shard_sets)
    return Inputs(shard_sets, Tokenizer.load(folder), table)


class TrainBatches(Iterator[Batch]):
    """The batches of a run from one step to its last; `close` it when done."""

    def __init__(self, batches: grain.DatasetIterator, step: int):
        self._batches, self._step = batches, step

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._step += 1
        return batch

    @property
    def state(self) -> dict[str, int]:
        """All that a checkpoint has to keep: the step whose batch comes next."""
        return {"next_index": self._step}

    def close(self) -> None:
        """Stops what prepares batches ahead."""
        self._batches.close()


def train_batches(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    tokenizer: Tokenizer,
    table: ValueVocabulary,
    *,
    start_step: int = 0,
    blocks: Sequence[int] = (0,),
    shards: int = 1,
) -> TrainBatches:
    """This host's rows of the batches of steps `start_step` … `settings.training.steps` - 1.

    Args:
      settings: resolved settings.
      shard_sets: where products come from, mixed by `settings.data.weights`.
      tokenizer: of titles and knowledge.
      table: of all the shard sets.
      start_step: the first step; what `TrainBatches.state` said of the run that is resumed.
      blocks: which blocks of rows are this host's, of …
      shards: … so many contiguous blocks of each batch.

    Raises:
      UserError: sources that contradict the settings or one another, no training items, or rows
        that do not divide into groups on each shard.
    """
    items = train_items(settings, shard_sets, tokenizer, table)
    left = range(start_step, settings.training.steps)
    steps = LocalBatches(
        items,
        settings,
        local_rows(settings, "training.batch", settings.training.batch, blocks, shards),
        [0] * len(left) if settings.training.one_batch else left,
    )
    return TrainBatches(prefetch(steps, settings.data, settings.data.workers), start_step)


def eval_batches(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    tokenizer: Tokenizer,
    table: ValueVocabulary,
    *,
    split: str | None = None,
    blocks: Sequence[int] = (0,),
    shards: int = 1,
) -> Iterator[Batch]:
    """One pass over held-out items in their stored order, with `collation.link_answers`.

    What is masked and asked of an item depends on its place alone: not on the seed of the run, nor
    on how items fall into batches. The last batch is filled up with rows of padding.

    Args:
      settings: resolved settings; `evaluation` says the batch and how many items.
      shard_sets: where products come from, one after the other.
      tokenizer: of titles and knowledge.
      table: of all the shard sets.
      split: `settings.data.valid_split` if None.
      blocks: which blocks of rows are this host's, of …
      shards: … so many contiguous blocks of each batch.
    """
    items = eval_items(settings, shard_sets, tokenizer, table, split=split)
    rows = local_rows(settings, "evaluation.batch", settings.evaluation.batch, blocks, shards)
    steps = range(-(-len(items) // settings.evaluation.batch))
    batches = LocalBatches(items, settings, rows, steps, answers=True)
    worthwhile = len(steps) * len(rows) // WORKER_ITEMS
    return prefetch(batches, settings.data, min(settings.data.workers, len(steps), worthwhile))


def prefetch(
    batches: grain.MapDataset, data: Data, workers: int = 0
) -> grain.DatasetIterator[Batch]:
    """`batches` in their order, made ahead by threads of this process or of `workers`.

    A worker is `data.threads` + 4 batches ahead: those of its threads, one in its queue, one that
    this process has taken out of it, and one on the way to each of these two.
    """
    threads = data.threads
    if not workers:
        return iter(batches.to_iter_dataset(grain.ReadOptions(threads, threads + READY)))
    if not flags.FLAGS.is_parsed():  # a notebook or a test; grain hands absl's flags to workers
        flags.FLAGS.mark_as_parsed()
    made = batches.to_iter_dataset(grain.ReadOptions(threads, threads))
    return iter(made.mp_prefetch(grain.MultiprocessingOptions(workers, 1), _begin_worker))


def train_items(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    tokenizer: Tokenizer,
    table: ValueVocabulary,
) -> "grain.MapDataset[PretrainingExample]":
    """All examples of a run in their order, without end: row r of step s is item s · B + r."""
    validate_sources(settings, shard_sets)
    split = settings.data.train_split
    for shards in shard_sets:
        if not shards.info.products.get(split):
            raise UserError(f"data.train_split: {shards.folder} has no items in a split {split!r}")
    how = (settings, shard_sets, split, settings.data.train_corruption, settings.seed)
    sources = task_examples(*how, table) if settings.task.downstream else _sources(*how)
    weights = settings.data.weights or [len(source) for source in sources]
    mixed = [
        # Each source has a seed of its own, or sources of one length would share an order.
        source.shuffle(_seed(settings.seed, i)).repeat()
        for i, source in enumerate(sources)
    ]
    items = grain.MapDataset.mix(mixed, weights) if len(mixed) > 1 else mixed[0]
    if settings.task.downstream:
        items = TaskRows(items, settings)
    prepare = ExampleBuilder(settings, tokenizer, table, training=True)
    return items.random_map(prepare, seed=_seed(settings.seed, len(sources)))


def eval_items(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    tokenizer: Tokenizer,
    table: ValueVocabulary,
    *,
    split: str | None = None,
) -> "grain.MapDataset[PretrainingExample]":
    """The examples of a held-out split, source after source, each in its stored order.

    Of more than `settings.evaluation.products` these are the first of each source: they are stored
    in the order of a hash, so that its beginning is a fair sample.
    """
    validate_sources(settings, shard_sets)
    split = split or settings.data.valid_split
    corruption = settings.data.valid_corruption
    sources = _sources(settings, shard_sets, split, corruption, EVALUATION_SEED)
    if not sources:
        names = ", ".join(sorted({name for shards in shard_sets for name in shards.info.products}))
        raise UserError(
            f"data.valid_split: no source has items in a split {split!r}, only in {names}"
        )
    limit, whole = settings.evaluation.products, sum(map(len, sources))
    if limit:  # each source gives its share, or the first alone would be measured
        sources = [source.slice(slice(-(-limit * len(source) // whole))) for source in sources]
    items = grain.MapDataset.concatenate(sources) if len(sources) > 1 else sources[0]
    if limit:
        items = items.slice(slice(limit))
    prepare = ExampleBuilder(settings, tokenizer, table, training=False)
    return items.random_map(prepare, seed=EVALUATION_SEED)


class LocalBatches(grain.MapDataset):
    """Item i is this host's rows of the batch of step steps[i]."""

    def __init__(
        self,
        items: "grain.MapDataset[PretrainingExample]",
        settings: Settings,
        rows: Sequence[int],
        steps: Sequence[int],
        *,
        answers: bool = False,
    ):
        """`rows` are those of each global batch that are this host's, in whole groups."""
        super().__init__(items)
        self._settings, self._rows, self._steps, self._answers = settings, rows, steps, answers
        batch = settings.evaluation.batch if answers else settings.training.batch
        self._batch, self._group = batch, settings.objectives.group

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        items, first = self._parent, self._steps[index] * self._batch
        rows = [first + row for row in self._rows]
        examples = [items[row] if row < len(items) else None for row in rows]
        seed = EVALUATION_SEED if self._answers else self._settings.seed
        groups = [row // self._group for row in rows[:: self._group]]
        batch = collate(examples, self._settings, groups, seed)
        return batch | link_answers(examples) if self._answers else batch


def _begin_worker(index: int, workers: int) -> None:
    leave_signals_to_parent()


def local_rows(
    settings: Settings, key: str, batch: int, blocks: Sequence[int], shards: int
) -> list[int]:
    """Rows of a global batch of `batch` rows that lie in `blocks`."""
    G = settings.objectives.group
    if batch % (shards * G):
        raise UserError(
            f"{key} {batch} is not a multiple of {shards} blocks that processes read x "
            f"objectives.group {G}"
        )
    rows = batch // shards
    return [row for block in blocks for row in range(block * rows, (block + 1) * rows)]


def _sources(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    split: str,
    corruption: Corruption,
    seed: int,
) -> list[grain.MapDataset]:
    """The records of each source that has any in the split, corrupted, their pictures read.

    Patches have the classes of one codebook in all sources: that of the first with pictures.
    """
    codebooks = [s.codebook if has_pictures(s.info) else None for s in shard_sets]
    common = next((codebook for codebook in codebooks if codebook), None)
    sources = []
    for shards, own in zip(shard_sets, codebooks, strict=True):
        if shards.info.products.get(split):
            same = own is None or np.array_equal(own.centres, common.centres)
            read = RegionReader(settings.image, None if same else common)
            source = shards.source(split)
            if corruption.rate:
                source = CorruptedSource(source, corruption, seed)
            sources.append(grain.MapDataset.source(source).map(read))
    return sources


def _seed(seed: int, stream: int) -> int:
    """A seed of its own for each stream of chance."""
    return int(np.random.SeedSequence((seed, stream)).generate_state(1)[0])
