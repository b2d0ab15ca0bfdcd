"""Held-out link prediction: the true value ranked among all values of its property.

The ranking is filtered: other values that are true of the item are no rivals. Ties count by
expectation (`metrics`). Beside it stands the majority's ranking of the very same questions, which
orders a property's values by how many training items have them.

A question is left out where no rival remains (a property with one value, or an item that has all
of them): everyone would answer it right.
"""

import bisect
import functools
import operator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.metrics.ranking import Ranks, ranks
from k3m_jax.modalities.knowledge import candidates
from k3m_jax.model.network import Network
from k3m_jax.objectives.link_prediction import energy
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import data_shards
from k3m_jax.parallel.shardings import batch_sharding, put_on_all_hosts, replicated, use_mesh

CANDIDATES = 256  # encoded at a time
PAIRS = 1 << 14  # (item, candidate) energies computed at a time


class Questions(NamedTuple):
    """What is asked of each of I items; all are ids of the data set's table of values."""

    targets: np.ndarray  # [I], UNKNOWN where nothing is asked
    known: np.ndarray  # [I, W] values of the asked property that are true, the target too; -1 pads


class LinkRanking:
    """Ranks the answers to fixed questions; its functions are compiled once.

    Attributes:
      items: [Q] which items' questions are ranked.
      majority: [Q] where the true values stand by training count.
      without_rival: questions left out because nothing stands against the true value.
    """

    def __init__(
        self,
        network: Network,
        mesh: Mesh,
        table: ValueVocabulary,
        tokenizer: Tokenizer,
        questions: Questions,
    ):
        """Writes the candidates of the asked properties, and ranks for the majority."""
        distributed.heartbeat("the questions about links")
        asked = np.flatnonzero(questions.targets != UNKNOWN)
        standing = [_majority(table, questions, item) for item in asked]
        kept = np.array([place is not None for place in standing], bool)
        self.items = asked[kept]
        self.without_rival = int((~kept).sum())
        places = np.array([p for p in standing if p is not None], np.int64).reshape(-1, 2)
        self.majority = Ranks(*places.T)

        self._mesh = mesh
        shards = data_shards(mesh)
        # Chunks of one size, so that nothing is ever compiled anew; each device takes its part.
        self._candidates = -(-CANDIDATES // shards) * shards
        self._pairs = -(-PAIRS // shards) * shards
        everywhere = replicated(mesh)
        norm = network.settings.objectives.lpm.norm
        self._encode = jax.jit(network.encode_candidates, out_shardings=everywhere)
        self._energy = jax.jit(functools.partial(_pair_energy, norm), out_shardings=everywhere)

        ranges = [table.range(table.pairs[t][0]) for t in questions.targets[self.items]]
        rows = _Rows(sorted(set(ranges)), table, tokenizer, network.settings.lengths.candidate)
        self._rows = rows
        self._true_rows = rows.of(questions.targets[self.items])
        bounds = np.array([rows.bounds[r] for r in ranges], np.int64).reshape(-1, 2)
        self._starts = bounds[:, 0]
        # All (question, row) pairs lie in one long line; question q's begin at offsets[q].
        self._offsets = np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])])
        known = questions.known[self.items]
        q, w = np.nonzero(known != UNKNOWN)
        place = self._offsets[q] + rows.of(known[q, w]) - self._starts[q]
        self._known_places = np.sort(place)

    def __call__(self, params: Any, embeddings: np.ndarray) -> Ranks:
        """Where the true values stand, [Q].

        Args:
          params: of the network.
          embeddings: c* of all I items [I, D], made without the asked triples.
        """
        if not len(self.items):
            return self.majority
        everywhere = replicated(self._mesh)
        c = put_on_all_hosts(everywhere, embeddings[self.items])
        p, v = (put_on_all_hosts(everywhere, x) for x in self._encode_rows(params))
        questions = np.arange(len(self.items))
        scores = [
            self._scores(c, p, v, chunk, self._true_rows[chunk])
            for chunk in _chunks(questions, self._pairs)
        ]
        true = np.concatenate(scores)
        better, tied = (np.zeros(len(questions), np.int64) for _ in range(2))
        for start in range(0, int(self._offsets[-1]), self._pairs):
            places = np.arange(start, min(start + self._pairs, self._offsets[-1]))
            q = np.searchsorted(self._offsets, places, "right") - 1
            row = self._starts[q] + places - self._offsets[q]
            # Values that read alike to the model share a row: they tie with the true one exactly.
            score = np.where(row == self._true_rows[q], true[q], self._scores(c, p, v, q, row))
            counted = self._rows.values[row]
            first, last = np.searchsorted(self._known_places, [start, places[-1] + 1])
            np.subtract.at(counted, self._known_places[first:last] - start, 1)
            found = ranks(true[q], score[:, None], counted[:, None])
            np.add.at(better, q, found.better)
            np.add.at(tied, q, found.tied)
        return Ranks(better, tied)

    def _encode_rows(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """p, v of every row, [rows, D]."""
        encoded = []
        for start in range(0, len(self._rows.values), self._candidates):
            distributed.heartbeat("the values that links are ranked among, to be encoded")
            chunk = [x[start : start + self._candidates] for x in self._rows.texts]
            chunk = [self._spread(x, self._candidates) for x in chunk]
            with use_mesh(self._mesh):
                encoded.append(self._encode(params, *chunk))
        p, v = (
            np.concatenate([np.asarray(x) for x in side]) for side in zip(*encoded, strict=True)
        )
        return p, v

    def _scores(
        self, c: jax.Array, p: jax.Array, v: jax.Array, questions: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Negated energies of at most `_pairs` pairs."""
        distributed.heartbeat("the ranking of links")
        indices = [self._spread(x.astype(np.int32), self._pairs) for x in (questions, rows)]
        return -np.asarray(self._energy(c, p, v, *indices))[: len(rows)]

    def _spread(self, x: np.ndarray, length: int) -> jax.Array:
        """`x` padded to `length`, a part on each device."""
        padding = [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1)
        return put_on_all_hosts(batch_sharding(self._mesh), np.pad(x, padding))


class _Rows:
    """The distinct candidate texts of some properties, adjacent for each property.

    Attributes:
      texts: tokens, mask, property spans, value spans, by row.
      values: [rows] how many values of the property read so, once cut to length.
      bounds: range of table ids of a property -> its range of rows.
    """

    def __init__(
        self,
        ranges: list[tuple[int, int]],
        table: ValueVocabulary,
        tokenizer: Tokenizer,
        length: int,
    ):
        self._of = np.full(len(table), UNKNOWN, np.int64)
        self.bounds: dict[tuple[int, int], tuple[int, int]] = {}
        texts, values, rows = [], [], 0
        for start, end in ranges:
            distributed.heartbeat("the values that links are ranked among, to be written")
            written = candidates(table.pairs[start:end], tokenizer, length)
            parts = written.tokens, written.mask, written.property_spans, written.value_spans
            whole = np.concatenate(parts, axis=1, dtype=np.int32)
            _, first, inverse, counts = np.unique(
                whole, axis=0, return_index=True, return_inverse=True, return_counts=True
            )
            self._of[start:end] = rows + inverse.reshape(-1)
            self.bounds[start, end] = rows, rows + len(first)
            texts.append([x[first] for x in parts])
            values.append(counts)
            rows += len(first)
        self.texts = [np.concatenate(side) for side in zip(*texts, strict=True)]
        self.values = np.concatenate([*values, np.zeros(0, np.int64)])

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of table ids."""
        return self._of[ids]


def _pair_energy(
    norm: str, c: jax.Array, p: jax.Array, v: jax.Array, questions: jax.Array, rows: jax.Array
) -> jax.Array:
    """Embeddings c [Q, D], candidates p, v [rows, D], pairs of their indices [P] -> [P]."""
    return energy(c[questions], p[rows], v[rows], norm)


def _majority(table: ValueVocabulary, questions: Questions, item: int) -> tuple[int, int] | None:
    """(better, tied) of one item's true value by training count; None where it has no rival.

    A property's counts descend, so that bisection finds the place: of 100,000 values few are read.
    """
    target, known = questions.targets[item], questions.known[item]
    known = known[known != UNKNOWN]
    start, end = table.range(table.pairs[target][0])
    if len(known) == end - start:
        return None
    count, others = table.counts[target], table.counts[known]
    how = {"a": table.counts, "x": -count, "lo": start, "hi": end, "key": operator.neg}
    first, last = bisect.bisect_left(**how), bisect.bisect_right(**how)
    better = first - start - int((others > count).sum())
    tied = last - first - int((others == count).sum())
    return better, tied


def _chunks(x: np.ndarray, length: int) -> list[np.ndarray]:
    return [x[start : start + length] for start in range(0, len(x), length)]
