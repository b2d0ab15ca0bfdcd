"""A task's training examples for the pipeline: shuffled as examples, read row by row."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.regions import RegionReader
from k3m_jax.settings import Corruption, Settings
from k3m_jax.tasks.examples import ROWS_PER_EXAMPLE, task_dataset
from k3m_jax.tasks.source import TaskSource


def task_examples(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    split: str,
    corruption: Corruption,
    seed: int,
    table: ValueVocabulary,
) -> list[grain.MapDataset]:
    """The examples of each source that has the split, tuples of the records that they show."""
    each = ROWS_PER_EXAMPLE[settings.task.name]
    sources = []
    for shards in shard_sets:
        if shards.info.products.get(split):
            found = task_dataset(settings.task, shards, split, table)
            source = TaskSource(shards, split, found, corruption, seed)
            sources.append(grain.MapDataset.source(_GroupedRows(source, each)))
    return sources


class _GroupedRows(Sequence):
    """Rows by example."""

    def __init__(self, rows: TaskSource, each: int):
        self._rows, self._each = rows, each

    def __len__(self) -> int:
        return len(self._rows) // self._each

    def __getitem__(self, index: int) -> tuple[Mapping[str, Any], ...]:
        first = index * self._each
        return tuple(self._rows[row] for row in range(first, first + self._each))

    def __repr__(self) -> str:  # grain tells sources apart by it
        return f"{self._rows!r} by {self._each}"


class TaskRows(grain.MapDataset):
    """Row by row what examples show, pictures read."""

    def __init__(self, parent: grain.MapDataset, settings: Settings):
        """`parent` has the examples in their order."""
        super().__init__(parent)
        self._each = ROWS_PER_EXAMPLE[settings.task.name]
        self._read = RegionReader(settings.image)

    def __len__(self) -> int:
        return min(len(self._parent) * self._each, sys.maxsize)  # training's repeats without end

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return self._read(self._parent[index // self._each][index % self._each])
