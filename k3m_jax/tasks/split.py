"""What a task asks of a split of all data sets together."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from k3m_jax.data.corruption import corrupted, corruption_key
from k3m_jax.data.input.pipeline import EVALUATION_SEED
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.settings import Corruption, Task, UserError
from k3m_jax.tasks import trivial_baselines
from k3m_jax.tasks.examples import TaskDataset, task_dataset
from k3m_jax.tasks.source import TaskSource


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSplit:
    """I examples, those of the first data set first."""

    split: str
    shard_sets: tuple[ShardSet, ...]  # those that have the split
    task_dataset: tuple[TaskDataset, ...]  # of each

    @classmethod
    def of(
        cls, task: Task, shard_sets: Sequence[ShardSet], split: str, table: ValueVocabulary
    ) -> "TaskSplit":
        """Raises UserError where no data set has the split, or nothing in it can be asked."""
        having = tuple(shards for shards in shard_sets if shards.info.products.get(split))
        if not having:
            names = sorted({name for shards in shard_sets for name in shards.info.products})
            raise UserError(f"no source has items in a split {split!r}, only in {', '.join(names)}")
        return cls(split, having, tuple(task_dataset(task, s, split, table) for s in having))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """[I] as `Examples.labels`."""
        return np.concatenate([found.labels for found in self.examples])

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """Numbers of the examples that can be learned from: `task.classes` may leave some out."""
        return np.flatnonzero(self.labels != UNKNOWN)

    @functools.cached_property
    def products(self) -> list[str]:
        """[I] that the examples are about."""
        return [product for found in self.examples for product in found.products]

    @functools.cached_property
    def catalogues(self) -> np.ndarray:
        """[I] numbers from 0, of those that the products are of."""
        names = [name for found in self.examples for name in found.catalogues]
        return np.unique(np.asarray(names, np.str_), return_inverse=True)[1]

    @functools.cached_property
    def split_products(self) -> frozenset[str]:
        """All that have an item in the split, whether anything is asked of it or not."""
        sources = (shards.source(self.split) for shards in self.shard_sets)
        return frozenset(record["product"] for source in sources for record in source)

    @functools.cached_property
    def left_out(self) -> dict[str, int]:
        """What nothing is asked of, by reason."""
        counts = collections.Counter()
        for found in self.examples:
            counts.update(found.left_out)
        return dict(counts)

    def sources(self, corruption: Corruption) -> list[TaskSource]:
        """The rows of all examples, corrupt in the way that every model's are."""
        return [
            TaskSource(shards, self.split, found, corruption, EVALUATION_SEED)
            for shards, found in zip(self.shard_sets, self.examples, strict=True)
        ]

    @functools.cached_property
    def items(self) -> list[str]:
        """The rows' items, as corruption tells them apart."""
        sources = [shards.source(self.split) for shards in self.shard_sets]
        return [
            corruption_key(source[row.item]["id"], row.view)
            for source, found in zip(sources, self.examples, strict=True)
            for row in found.rows
        ]

    def corrupted(self, corruption: Corruption) -> np.ndarray:
        """Which rows' items are corrupt, bool [rows]."""
        return corrupted(self.items, corruption, EVALUATION_SEED)

    def surface(self, corruption: Corruption) -> trivial_baselines.RawFeatures:
        """What the floors see of the same rows."""
        return trivial_baselines.raw_features(self.sources(corruption))
