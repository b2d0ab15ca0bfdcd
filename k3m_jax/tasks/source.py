"""The rows of a task's examples as records: corrupt if wanted, and without what is to be hidden."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from k3m_jax.data.corruption import MODALITIES, CorruptedSource, visible_triples
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Corruption
from k3m_jax.tasks.examples import TaskDataset, TaskRow


class TaskSource(Sequence):
    """Record i is what row i shows; pickles.

    `properties` and `values` are still all of the item's: the triples that it shows, and the model
    reads, are `told`. `asked` is the property asked for ("" is none), `label` the row's.
    """

    def __init__(
        self, shards: ShardSet, split: str, found: TaskDataset, corruption: Corruption, seed: int
    ):
        """`found` is of the split; `seed` is of the corruption (`corruption.CorruptedSource`)."""
        self._source, self._rows = shards.source(split), found.rows
        self._spoil = CorruptedSource(self._source, corruption, seed, found.chosen).corrupt
        self._views, self._regions = shards.views, shards.info.regions

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        item = self._source[row.item]
        if row.view:
            # Nobody asks for the classes of its patches.
            classes = np.zeros(self._regions, np.int32)
            item = {**item, "picture": self._views[row.view], "class_ids": classes}
        corrupt = self._spoil(item, row.view)
        return {**shown(corrupt, row), "asked": row.asked, "label": row.label}

    def __repr__(self) -> str:  # grain tells sources apart by it
        return f"TaskSource({self._source!r}, {len(self)} rows)"


def shown(record: Mapping[str, Any], row: TaskRow) -> dict[str, Any]:
    """A record without the modalities and the properties that a row hides."""
    result = {**record, "told": visible_triples(record)}
    for modality, keys in MODALITIES.items():
        if modality not in row.shown:
            result |= {key: result[key][:0] for key in keys if key in result}
    result["told"] = [(p, v) for p, v in result["told"] if normalised(p) not in row.hidden]
    return result
