"""A task's training examples for the pipeline: shuffled as examples, read row by row."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from k3m_jax.data.links import LinkTable
from k3m_jax.data.regions import ReadRegions
from k3m_jax.data.shards import ShardSet
from k3m_jax.data.task_source import TaskSource
from k3m_jax.data.tasks import ROWS, examples
from k3m_jax.settings import Corruption, Settings


def task_examples(
    settings: Settings,
    shard_sets: Sequence[ShardSet],
    split: str,
    corruption: Corruption,
    seed: int,
    table: LinkTable,
) -> list[grain.MapDataset]:
    """The examples of each source that has the split, tuples of the records that they show."""
    each = ROWS[settings.task.name]
    sources = []
    for shards in shard_sets:
        if shards.info.products.get(split):
            found = examples(settings.task, shards, split, table)
            source = TaskSource(shards, split, found, corruption, seed)
            sources.append(grain.MapDataset.source(_Whole(source, each)))
    return sources


class _Whole(Sequence):
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
        self._each = ROWS[settings.task.name]
        self._read = ReadRegions(settings.image)

    def __len__(self) -> int:
        return min(len(self._parent) * self._each, sys.maxsize)  # training's repeats without end

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return self._read(self._parent[index // self._each][index % self._each])
