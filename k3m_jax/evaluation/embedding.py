"""Embeddings of many items and candidates, by fixed parameters."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh

from k3m_jax.data.input.pipeline import HostRows, inference_batches
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import ItemView
from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.model.network import Network, Params
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import data_shards
from k3m_jax.parallel.placement import place_batch, process_blocks, put_on_all_hosts
from k3m_jax.parallel.shardings import batch_sharding, replicated

CANDIDATES = 256  # encoded at a time


class Embedder:
    """Embeds items and candidates; compiled once, whatever is embedded."""

    def __init__(self, network: Network, mesh: Mesh, tokenizer: Tokenizer, params: Params = None):
        """`params` lie on `mesh`, over which rows are split; None until `at` names some."""
        self.network, self.mesh, self.tokenizer, self._params = network, mesh, tokenizer, params
        self._embed = jax.jit(network.embed, out_shardings=replicated(mesh))
        self._encode = jax.jit(network.encode_candidates, out_shardings=replicated(mesh))

    def at(self, params: Params) -> Self:
        """The same at other parameters; nothing is compiled again."""
        other = copy.copy(self)
        other._params = params
        return other

    def __call__(self, sources: Sequence[Sequence[ItemView]]) -> np.ndarray:
        """The embeddings of all items, float32 [rows, D]; every process gets all of them."""
        rows = HostRows(*process_blocks(self.mesh))
        batches = inference_batches(self.network.settings, sources, self.tokenizer, rows=rows)
        found = []
        for number, batch in enumerate(batches):
            distributed.heartbeat(f"batch {number} of the items to embed")
            with jax.set_mesh(self.mesh):
                found.append(self._embed(self._params, place_batch(self.mesh, batch)))
        return np.concatenate(jax.device_get(found))[: sum(map(len, sources))]

    def candidates(self, texts: CandidateTexts) -> tuple[np.ndarray, np.ndarray]:
        """Properties and values of candidates, float32 [Q, D] each; Q > 0."""
        size = -(-CANDIDATES // data_shards(self.mesh)) * data_shards(self.mesh)
        sharding, found = batch_sharding(self.mesh), []
        for start in range(0, len(texts), size):
            distributed.heartbeat("the candidate values to encode")
            parts = {name: x[start : start + size] for name, x in vars(texts).items()}
            padded = {n: np.pad(x, [(0, size - len(x)), (0, 0)]) for n, x in parts.items()}
            with jax.set_mesh(self.mesh):
                placed = {name: put_on_all_hosts(sharding, x) for name, x in padded.items()}
                found.append(self._encode(self._params, placed))
        p, v = zip(*jax.device_get(found), strict=True)
        return np.concatenate(p)[: len(texts)], np.concatenate(v)[: len(texts)]


class RememberingEmbedder(Embedder):
    """Embeds each view once: tasks that show the same items alike cost one pass.

    Its sources have `keys`, equal for equal views, and `subset`, as `tasks.base.TaskSource` has.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._known: dict[Any, np.ndarray] = {}

    def at(self, params: Params) -> Self:
        """The same at other parameters, of which nothing is known yet."""
        other = super().at(params)
        other._known = {}
        return other

    def __call__(self, sources: Sequence[Any]) -> np.ndarray:
        """As `Embedder`."""
        keys, new = [source.keys() for source in sources], []
        for source, each in zip(sources, keys, strict=True):
            places = {k: place for place, k in enumerate(each) if k not in self._known}
            if places:
                new.append((list(places), source.subset(places.values())))
        if new:
            vectors = super().__call__([source for _, source in new])
            names = [name for each, _ in new for name in each]
            self._known |= dict(zip(names, vectors, strict=True))
        return np.stack([self._known[key] for each in keys for key in each])
