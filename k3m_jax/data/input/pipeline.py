"""From shards to batches, with grain.

The order of items, their masks and their negatives are functions of the seed and of an item's place
in the run alone. So the n-th batch is the same after resumption, for any hosts and any workers.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from k3m_jax import tasks
from k3m_jax.data.corruption import EVALUATION_SEED, Corrupter
from k3m_jax.data.input.batch import Batch, BatchLayout, ExampleBuilder, PretrainingExample
from k3m_jax.data.input.siblings import with_sibling
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import ItemView, Record
from k3m_jax.data.store.codebook import Codebook
from k3m_jax.data.store.shards import BuildInfo, ShardSet, open_shards
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.data.workers import leave_signals_to_parent
from k3m_jax.modalities import pixels
from k3m_jax.settings import Corruption, Data, Settings, UserError
from k3m_jax.tasks.base import TaskSplit

READY = 2  # batches that are ready besides those that this process' threads work on
WORKER_ITEMS = 1024  # threads prepare about so many before a new process has begun

Examples = grain.MapDataset[PretrainingExample]


class Inputs(NamedTuple):
    """What batches are made from."""

    shard_sets: Sequence[ShardSet]
    tokenizer: Tokenizer
    vocabulary: ValueVocabulary

    def resolve(self, settings: Settings) -> Settings:
        """`settings` with the sizes that the data have; UserError where they contradict."""
        validate_sources(settings, self.shard_sets)
        # Without any picture no classes are known, but the head of the model needs a size.
        classes = max(1, count_classes(self.shard_sets))
        if (task := settings.task).downstream:
            task = tasks.find(task.name).resolve(task, self.shard_sets, settings.data.train_split)
            settings = dataclasses.replace(settings, task=task)
        made = [s.info.backbone for s in self.shard_sets if s.info.backbone.model]
        image = dataclasses.replace(settings.image, backbone=(*made, settings.image.backbone)[0])
        settings = dataclasses.replace(settings, image=image)
        settings = settings.resolved(vocabulary=self.tokenizer.size, classes=classes)
        for name, array in BatchLayout.of(settings).arrays.items():
            if name.endswith("_tokens") and array.shape[-1] > settings.model.positions:
                texts = f"{array.shape[-1]} {name} of a text (lengths.*)"
                raise UserError(f"model.positions {settings.model.positions} is less than {texts}")
        return settings


def open_inputs(data: Data) -> Inputs:
    """Opens what `data` names; UserError where a source or the tokenizer is not there."""
    if not data.sources:
        hint = "write shards with python -m launch.build_shards and name them"
        raise UserError(f"data.sources is empty: {hint}, --config.data.sources=\"('FOLDER',)\"")
    shard_sets = [open_shards(s, data.unreadable, data.copy) for s in data.sources]
    folder = data.tokenizer or shard_sets[0].tokenizer_folder
    if not folder:
        hint = "name a folder in data.tokenizer"
        raise UserError(f"{data.sources[0]} was built without a tokenizer: {hint}")
    vocabulary = ValueVocabulary.merge(shards.values for shards in shard_sets)
    return Inputs(shard_sets, Tokenizer.load(folder), vocabulary)


def validate_sources(settings: Settings, shard_sets: Sequence[ShardSet]) -> None:
    """Raises UserError where a source contradicts the settings or another source."""
    image, mom = settings.image, settings.objectives.mom
    sizes = ("feature_dim",) if image.front_end == "regions" else ("patch_size", "regions")
    for shards in shard_sets:
        for name in ("front_end", *(sizes if has_pictures(shards.info) else ())):
            value, stored = getattr(image, name), getattr(shards.info, name)
            if value != stored:
                hint = "change the setting, or build the shards again"
                built = f"{shards.folder} was built with {stored}"
                raise UserError(f"image.{name} is {value}, but {built}: {hint}")
    pictured = [shards for shards in shard_sets if has_pictures(shards.info)]
    if image.front_end == "patches" or not pictured:
        return
    # Codebooks may differ (see `view_sources`), detectors may not: nothing maps their classes.
    # Of a detector that gave one class of a region, the largest seen isn't the number of classes.
    if len({s.info.classes for s in pictured if s.info.top_classes > 1}) > 1:
        folders = ", ".join(str(shards.folder) for shards in pictured)
        raise UserError(f"data.sources have regions of different detectors: {folders}")
    made = {s.info.backbone for s in pictured} | {image.backbone}
    if len(known := {backbone for backbone in made if backbone.model}) > 1:
        raise UserError(f"regions of different frozen models don't mix: {sorted(map(str, known))}")
    if not count_classes(shard_sets) and mom.variant == "kl" and mom.weight:
        lacking = f"the regions of {pictured[0].folder} have no class distribution"
        raise UserError(f"objectives.mom.variant is 'kl', but {lacking}: 'regression' or 'nce' do")


def count_classes(shard_sets: Sequence[ShardSet]) -> int:
    """C: of the first codebook fitted to pictures, or of the detector; 0 where there is none."""
    counts = [shards.info.classes for shards in shard_sets if has_pictures(shards.info)]
    if not any(counts):
        return 0
    return counts[0] if shard_sets[0].info.front_end == "patches" else max(counts)


def has_pictures(info: BuildInfo) -> bool:
    """Whether any item has; where none has, what is said of pictures means nothing."""
    return info.missing["image"] < sum(info.products.values())


def view_sources(
    shard_sets: Sequence[ShardSet], split: str, corruption: Corruption, seed: int
) -> list[grain.MapDataset[ItemView]]:
    """The items of each source that has any in the split, corrupted.

    Patches have the classes of one codebook in all sources: that of the first with pictures.
    """
    codebooks = [s.codebook if has_pictures(s.info) else None for s in shard_sets]
    common = next((codebook for codebook in codebooks if codebook), None)
    sources = []
    for shards, own in zip(shard_sets, codebooks, strict=True):
        if shards.info.products.get(split):
            source = shards.source(split)
            if own is not None and not np.array_equal(own.centres, common.centres):
                recode = functools.partial(_recode, codebook=common)
                source = grain.MapDataset.source(source).map(recode)
            views = grain.MapDataset.source(source).map(ItemView.of)
            sources.append(views.map(Corrupter(source, corruption, seed)))
    return sources


def _recode(record: Record, codebook: Codebook) -> Record:
    """A record with patches of the classes of another codebook than that of its data set."""
    picture = record.contents["image"]
    try:
        patches = pixels.patchify(pixels.decode(picture.jpeg), codebook.patch_size)
    except Exception:  # absent, or damaged: what encodes it reports that
        return record
    recoded = dataclasses.replace(picture, class_ids=codebook.assign(patches))
    return dataclasses.replace(record, contents={**record.contents, "image": recoded})


class HostRows(NamedTuple):
    """Which rows of each global batch this host makes: some of several contiguous blocks."""

    blocks: Sequence[int] = (0,)
    count: int = 1

    def of(self, batch: int, group: int, key: str) -> list[int]:
        """Those of a batch of `batch` rows, whole groups; UserError names the setting `key`."""
        if batch % (self.count * group):
            factors = f"{self.count} blocks that processes read x objectives.group {group}"
            raise UserError(f"{key} {batch} is not a multiple of {factors}")
        size = batch // self.count
        return [row for b in self.blocks for row in range(b * size, (b + 1) * size)]


ALL_ROWS = HostRows()


def train_batches(
    settings: Settings, inputs: Inputs, *, start_step: int = 0, rows: HostRows = ALL_ROWS
) -> grain.DatasetIterator[Batch]:
    """This host's rows of the batches of steps `start_step` … `settings.training.steps` - 1.

    `close` them when done. `settings` are resolved by `inputs`. Raises UserError: no training
    items, or rows that do not divide into groups on each host.
    """
    layout, size = BatchLayout.of(settings), settings.training.batch
    steps = range(start_step, settings.training.steps)
    if settings.training.one_batch:
        steps = [0] * len(steps)
    mine = rows.of(size, layout.unit, "training.batch")
    items, data = train_items(settings, inputs), settings.data
    return _batches(items, layout, size, mine, steps, data, data.workers, seed=settings.seed)


def eval_batches(
    settings: Settings, inputs: Inputs, *, rows: HostRows = ALL_ROWS
) -> Iterator[Batch]:
    """One pass over held-out items, source after source, with what the host alone reads.

    What is hidden of an item depends on its place alone. The last batch is filled up with padding.
    """
    layout, workers = BatchLayout.of(settings).padded, settings.data.workers
    return _one_pass(eval_items(settings, inputs), layout, settings, rows, workers)


def inference_batches(
    settings: Settings,
    sources: Sequence[Sequence[ItemView]],
    tokenizer: Tokenizer,
    *,
    rows: HostRows = ALL_ROWS,
) -> Iterator[Batch]:
    """One pass over the items of all sources, nothing hidden; the last batch is filled up."""
    layout = BatchLayout.for_inference(settings)
    items = grain.MapDataset.concatenate([grain.MapDataset.source(source) for source in sources])
    items = items.random_map(ExampleBuilder(layout, tokenizer), seed=EVALUATION_SEED)
    return _one_pass(items, layout, settings, rows)


def _one_pass(
    items: Examples, layout: BatchLayout, settings: Settings, rows: HostRows, workers: int = 0
) -> Iterator[Batch]:
    """All items once, in batches of `settings.evaluation.batch`."""
    size = settings.evaluation.batch
    mine = rows.of(size, layout.group, "evaluation.batch")
    steps = range(-(-len(items) // size))
    workers = min(workers, len(steps), len(steps) * len(mine) // WORKER_ITEMS)
    return _batches(items, layout, size, mine, steps, settings.data, workers, evaluation=True)


def _batches(
    items: Examples,
    layout: BatchLayout,
    size: int,
    rows: Sequence[int],
    steps: Sequence[int],
    data: Data,
    workers: int,
    **kwargs,
) -> grain.DatasetIterator[Batch]:
    """Of each step the `rows` of its batch of `size` items; `kwargs` are of `collate`.

    They are made ahead by threads of this process or of `workers`. A worker is `data.threads` + 4
    batches ahead: those of its threads, one in its queue, one that this process has taken out of
    it, and one on the way to each of these two.
    """

    def batch(step: int) -> Batch:
        chosen = [step * size + row for row in rows]
        examples = [items[row] if row < len(items) else None for row in chosen]
        groups = [row // layout.group for row in chosen[:: layout.group]]
        return layout.collate(examples, groups, **kwargs)

    batches, threads = grain.MapDataset.source(steps).map(batch), data.threads
    if not workers:
        return iter(batches.to_iter_dataset(grain.ReadOptions(threads, threads + READY)))
    if not flags.FLAGS.is_parsed():  # a notebook or a test; grain hands absl's flags to workers
        flags.FLAGS.mark_as_parsed()
    made = batches.to_iter_dataset(grain.ReadOptions(threads, threads))
    processes = grain.MultiprocessingOptions(workers, 1)
    return iter(made.mp_prefetch(processes, lambda *_: leave_signals_to_parent()))


def train_items(settings: Settings, inputs: Inputs, layout: BatchLayout | None = None) -> Examples:
    """All examples of a run in their order, without end: row r of step s is item s · B + r.

    `layout` is that of the run, or has a part of its modalities and objectives.
    """
    data, task, each = settings.data, settings.task, 1
    split, corruption = data.train_split, data.train_corruption
    for shards in inputs.shard_sets:
        if not shards.info.products.get(split):
            raise UserError(f"data.train_split: {shards.folder} has no items in a split {split!r}")
    if task.downstream:
        kind = tasks.find(task.name)
        each = kind.rows_per_example  # which are shuffled as a whole
        few = {"labels_per_class": task.labels_per_class}
        found = TaskSplit(kind, task, inputs.shard_sets, split, inputs.vocabulary, **few)
        rows = map(grain.MapDataset.source, found.sources(corruption, settings.seed))
        sources = [source.batch(each, batch_fn=tuple) for source in rows]
    else:
        sources = view_sources(inputs.shard_sets, split, corruption, settings.seed)
    weights = data.weights or [len(source) for source in sources]
    # Each source has a seed of its own, or sources of one length would share an order.
    seeds = [_seed(settings.seed, i) for i in range(len(sources))]
    if data.siblings and not task.downstream:
        each, products = 2, (shards.product_hashes(split) for shards in inputs.shard_sets)
        mixed = [with_sibling(*source) for source in zip(sources, products, seeds, strict=True)]
    else:
        mixed = [source.shuffle(s).repeat() for source, s in zip(sources, seeds, strict=True)]
    items = grain.MapDataset.mix(mixed, weights) if len(mixed) > 1 else mixed[0]
    if each > 1 or task.downstream:  # row by row again, without end
        rows = grain.MapDataset.source(range(sys.maxsize))
        items = rows.map(lambda row, examples=items: examples[row // each][row % each])
    layout = layout or BatchLayout.of(settings)
    build = ExampleBuilder(layout, inputs.tokenizer, inputs.vocabulary, training=True)
    return items.random_map(build, seed=_seed(settings.seed, len(sources)))


def eval_items(settings: Settings, inputs: Inputs) -> Examples:
    """The examples of `data.valid_split`, source after source, each in its stored order.

    Of more than `settings.evaluation.products` these are the first of each source, a fair sample:
    they are stored in the order of a hash.
    """
    split, corruption = settings.data.valid_split, settings.data.valid_corruption
    sources = view_sources(inputs.shard_sets, split, corruption, EVALUATION_SEED)
    if not sources:
        names = ", ".join(sorted({n for each in inputs.shard_sets for n in each.info.products}))
        hint = "name a held-out one, or build the shards with --valid_fraction"
        raise UserError(f"data.valid_split: no source has a split {split!r}, only {names}: {hint}")
    limit = settings.evaluation.products or sum(map(len, sources))
    shares = first_items(list(map(len, sources)), limit)
    sources = [s.slice(slice(count)) for s, count in zip(sources, shares, strict=True) if count]
    items = grain.MapDataset.concatenate(sources)
    build = ExampleBuilder(BatchLayout.of(settings), inputs.tokenizer, inputs.vocabulary)
    return items.random_map(build, seed=EVALUATION_SEED)


def first_items(sizes: Sequence[int], limit: int) -> list[int]:
    """How many items of each source are measured, `limit` together where they have so many.

    Each source gives its share, or the first alone would be measured.
    """
    whole, counts = sum(sizes), []
    for size in sizes:
        counts.append(min(size, -(-limit * size // whole), limit - sum(counts)))
    return counts


def _seed(seed: int, stream: int) -> int:
    """A seed of its own for each stream of chance."""
    return int(np.random.SeedSequence((seed, stream)).generate_state(1)[0])
