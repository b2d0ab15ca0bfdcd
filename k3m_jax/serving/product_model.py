"""A pretrained model as a library call: records of products in, vectors out."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.modalities.knowledge import candidates
from k3m_jax.model.network import Network, Params
from k3m_jax.serving import functions
from k3m_jax.serving.product_arrays import ProductArrays
from k3m_jax.settings import UserError

# Rows computed at a time: a call is cut into the largest, and what remains is filled up to the next
# that holds it. So a model compiles three times in its life, whatever it is asked.
ROWS = (1, 8, 64)


class ProductModel:
    """A pretrained K3M; `from_pretrained` opens one.

    Attributes:
      network: the model; `network.settings` are its resolved settings.
      params: its parameters, float32, on the default device.
      tokenizer: of its titles and triples.
      record: makes the record of one product, see `ProductArrays.record`.
    """

    def __init__(self, network: Network, params: Params, tokenizer: Tokenizer):
        """Places `params`; nothing is compiled before it is asked for."""
        self.network, self.tokenizer = network, tokenizer
        self.params = jax.device_put(params)
        self._arrays = ProductArrays(network.settings, tokenizer)
        self.record = self._arrays.record
        self._embed = jax.jit(functools.partial(functions.embed, network))
        self._link_scores = jax.jit(functools.partial(functions.link_scores, network))

    @property
    def width(self) -> int:
        """D, of an embedding."""
        return self.network.settings.model.text.width

    def embed(self, records: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Embeddings of products, float32 [N, D], in the order of `records`; [0, D] of none.

        Args:
          records: as `record` makes them or a `ShardSet.source` gives them; a title, triples or a
            picture may be absent, all three too.

        Raises:
          UserError: a record that can't be used; it is named by its index.
        """
        return np.concatenate([np.zeros((0, self.width), np.float32), *self.embed_parts(records)])

    def embed_parts(self, records: Iterable[Mapping[str, Any]]) -> Iterator[np.ndarray]:
        """The same of more products than memory holds, part by part, `records` read as needed."""
        records, first, ahead = iter(records), 0, None
        while part := list(itertools.islice(records, ROWS[-1])):
            arrays = self._arrays(part, _rows(len(part)), first)
            # The device computes this part while the next is prepared.
            running = self._embed(self.params, arrays), len(part)
            if ahead:
                yield _fetch(*ahead)
            ahead, first = running, first + len(part)
        if ahead:
            yield _fetch(*ahead)

    def link_scores(self, embeddings: np.ndarray, triples: Sequence[tuple[str, str]]) -> np.ndarray:
        """How well each (property, value) fits each product: `−‖c* + p − v‖`, high is likely.

        Scores compare values of one property; docs/method.md tells what the energy means.

        Args:
          embeddings: float32 [N, D], what `embed` gave.
          triples: Q of them; asked of a product that knows them already, they are no test.

        Returns:
          Float32 [N, Q].

        Raises:
          UserError: `embeddings` or `triples` are something else, or the model is of the `release`
            preset, which has no score of a single triple.
        """
        if "link_scores" not in functions.signatures(self.network):
            raise UserError("link_scores: the release preset has no score of a single triple")
        if (shape := np.shape(embeddings))[1:] != (self.width,):
            raise UserError(f"link_scores: embeddings of the shape {shape}, not [N, {self.width}]")
        for triple in triples:
            if isinstance(triple, str) or [isinstance(x, str) for x in triple] != [True, True]:
                raise UserError(f"link_scores: {triple!r:.60} is not a (property, value) pair")
        texts = vars(candidates(triples, self.tokenizer, self.network.settings.lengths.candidate))
        scores = np.zeros((len(embeddings), len(triples)), np.float32)
        for q in _parts(len(triples)):
            asked = {name: _filled(array[q]) for name, array in texts.items()}
            for n in _parts(len(embeddings)):
                found = self._link_scores(self.params, _filled(embeddings[n]), asked)
                block = scores[n, q]
                block[:] = np.asarray(found)[: block.shape[0], : block.shape[1]]
        return scores


def _rows(count: int) -> int:
    return next(rows for rows in ROWS if rows >= count)


def _parts(count: int) -> list[slice]:
    return [slice(start, start + ROWS[-1]) for start in range(0, count, ROWS[-1])]


def _filled(array: np.ndarray) -> np.ndarray:
    """At most the largest of `ROWS` rows, filled up with zeros to one of them."""
    padding = _rows(len(array)) - len(array)
    return np.pad(array, [(0, padding), *[(0, 0)] * (array.ndim - 1)])


def _fetch(embeddings: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(embeddings)[:rows]
