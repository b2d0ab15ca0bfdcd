"""Several processes agree on the shape of each batch: that of the one that needs most rows."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from k3m_jax.parallel.mesh import AXES
from k3m_jax.parallel.shardings import replicated

Batch = Mapping[str, np.ndarray]


class Packing(Protocol):
    """What is needed of `data.input.packing.TextPacking`."""

    def rows_of(self, batch: Batch) -> int:
        """Packed rows of each pack."""

    def widened(self, batch: Batch, rows: int) -> Batch:
        """The same batch with at least as many."""


class AgreedRows:
    """This process' batches, each with as many packed rows as any process' part of it needs.

    The devices find the largest number one batch ahead, before the step that comes first, so that
    no process waits for it.
    """

    def __init__(self, batches: Iterator[Batch], packing: Packing, mesh: Mesh):
        """`batches` has a `close`; all processes have equally many."""
        self._batches, self._packing, self._mesh = batches, packing, mesh
        self._sharding = NamedSharding(mesh, PartitionSpec(AXES))
        self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._ahead = self._prepared()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._ahead is None:
            raise StopIteration
        (batch, largest), self._ahead = self._ahead, self._prepared()
        return self._packing.widened(batch, int(largest))

    def close(self) -> None:
        """Closes the batches."""
        self._batches.close()

    def _prepared(self) -> tuple[Batch, Any] | None:
        if (batch := next(self._batches, None)) is None:
            return None
        own = np.full(1, self._packing.rows_of(batch), np.int32)
        shape = (self._mesh.size,)
        rows = jax.make_array_from_callback(shape, self._sharding, lambda index: own)
        return batch, self._largest(rows)
