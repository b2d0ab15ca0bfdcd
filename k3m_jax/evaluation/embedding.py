"""Embeddings of many items, from parameters that stay as they are."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from k3m_jax.data.input.embedding_batches import embedding_batches
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.modalities.knowledge import Candidates
from k3m_jax.model.network import Network, Params
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import data_shards, process_blocks
from k3m_jax.parallel.shardings import (
    batch_sharding,
    place_batch,
    put_on_all_hosts,
    replicated,
    use_mesh,
)

CANDIDATES = 256  # encoded at a time


class Embedder:
    """Embeds records and candidates; compiled once, whatever is embedded."""

    def __init__(self, network: Network, mesh: Mesh, tokenizer: Tokenizer, params: Params = None):
        """`params` are placed on `mesh`, over which rows are spread; None until `at` names some."""
        self._network, self._mesh, self._tokenizer = network, mesh, tokenizer
        self._params = params
        everywhere = replicated(mesh)
        self._embed = jax.jit(network.embed, out_shardings=everywhere)
        self._encode = jax.jit(network.encode_candidates, out_shardings=everywhere)

    def at(self, params: Params) -> "Embedder":
        """The same at other parameters; nothing is compiled anew."""
        other = copy.copy(self)
        other._params = params
        return other

    def __call__(self, sources: Sequence[Sequence[Mapping[str, Any]]]) -> np.ndarray:
        """The embeddings of all records, float32 [rows, D]; every process gets all of them.

        Args:
          sources: of records, as `data.task_source.TaskSource` gives them.
        """
        blocks, shards = process_blocks(self._mesh)
        batches = embedding_batches(
            self._network.settings, sources, self._tokenizer, blocks=blocks, shards=shards
        )
        found = []
        for number, batch in enumerate(batches):
            distributed.heartbeat(f"batch {number} of the items to embed")
            with use_mesh(self._mesh):
                found.append(self._embed(self._params, place_batch(self._mesh, batch)))
        return np.concatenate(jax.device_get(found))[: sum(map(len, sources))]

    def candidates(self, texts: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Properties and values of candidates, float32 [Q, D] each."""
        rows, sharding = len(texts.tokens), batch_sharding(self._mesh)
        size = -(-CANDIDATES // data_shards(self._mesh)) * data_shards(self._mesh)
        arrays = (texts.tokens, texts.mask, texts.property_spans, texts.value_spans)
        found = []
        for start in range(0, rows, size):
            parts = [x[start : start + size] for x in arrays]
            padded = [np.pad(x, [(0, size - len(x)), (0, 0)]) for x in parts]
            with use_mesh(self._mesh):
                placed = (put_on_all_hosts(sharding, x) for x in padded)
                found.append(self._encode(self._params, *placed))
        return tuple(
            np.concatenate(side)[:rows] for side in zip(*jax.device_get(found), strict=True)
        )
