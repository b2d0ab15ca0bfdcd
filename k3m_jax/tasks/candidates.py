"""Candidate values of queried properties, and where the true values rank among them."""

import collections
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary, normalised
from k3m_jax.metrics import Ranks, ranks
from k3m_jax.modalities.base import TextTokenizer
from k3m_jax.modalities.knowledge import CandidateTexts, Triple

PAIRS = 1 << 14  # (query, text) pairs that are scored at a time


class Block(NamedTuple):
    """The candidates of one property: its own values first, then values of other properties."""

    pairs: Sequence[Triple]  # C of them
    ids: np.ndarray  # [C] in the vocabulary; UNKNOWN (-1) where the property lacks the value
    text: np.ndarray  # [C] number of its text in the set; a block's are adjacent, text[0] first


class Candidates:
    """The candidates of Q queries: a block for each, and positions in it.

    These are of the `target` [Q], of all `known` true values, and, ascending, of the false ones of
    its `sample`. Values that read the same once they are cut to length share one of `texts`, so
    that they tie exactly.
    """

    def __init__(
        self,
        vocabulary: ValueVocabulary,
        targets: Sequence[int],
        known: Sequence[Sequence[int]],
        tokenizer: TextTokenizer,
        length: int,
        *,
        names: Sequence[str] = (),
        size: int = 0,
        progress: Callable[[], None] = lambda: None,
    ):
        """Writes the texts, of `length` tokens; `progress` is called before each property.

        Args:
          targets: id of the queried value of each query.
          known: ids of all true values of its property, the target included.
          names: of each query, seeds of its sample of false candidates; () is no sample.
          size: of a sample, the target included: values of other properties fill it up.
        """
        ranges = [vocabulary.range(vocabulary.pairs[ids[0]][0]) for ids in known]
        most = collections.Counter()  # range of a property's ids -> most true values
        for own, ids in zip(ranges, known, strict=True):
            most[own] = max(most[own], len(ids))
        spellings = {normalised(v): v for _, v in vocabulary.pairs} if names else {}
        blocks: dict[tuple[int, int], Block] = {}
        written, first_text = [CandidateTexts.write([], tokenizer, length)], 0
        for (start, end), true in sorted(most.items()):
            progress()
            pairs = list(vocabulary.pairs[start:end])
            lacking = max(0, size - 1 - (len(pairs) - true))
            pairs += _other_pairs(pairs, spellings)[:lacking] if lacking else []
            ids = np.full(len(pairs), UNKNOWN)
            ids[: end - start] = range(start, end)
            texts = CandidateTexts.write(pairs, tokenizer, length)
            numbers: dict[bytes, int] = {}
            text = [numbers.setdefault(texts.identity(q), len(numbers)) for q in range(len(pairs))]
            blocks[start, end] = Block(pairs, ids, first_text + np.array(text))
            written.append(texts.take(np.unique(text, return_index=True)[1]))
            first_text += len(numbers)
        self.texts = CandidateTexts.concatenate(written)
        self.blocks = [blocks[own] for own in ranges]
        starts = np.array([start for start, _ in ranges], np.int64)
        self.target = np.asarray(targets, np.int64) - starts
        self.known = [np.array(ids) - start for ids, start in zip(known, starts, strict=True)]
        self.sample: list[np.ndarray] = []
        for q, name in enumerate(names):
            own = item_generator(name).permutation(self._false(q))
            others = np.flatnonzero(self.blocks[q].ids == UNKNOWN)
            self.sample.append(np.sort(np.concatenate([own, others])[: size - 1]))

    def take(self, start: int, end: int) -> Self:
        """The candidates of some of the queries, with the texts of all."""
        part = copy.copy(self)
        for name in ("blocks", "target", "known", "sample"):
            setattr(part, name, getattr(self, name)[start:end])
        return part

    def split(self, scores: np.ndarray) -> list[np.ndarray]:
        """Scores [P] of all candidates, query after query -> [C] of each query's."""
        return np.split(scores, np.cumsum([len(block.ids) for block in self.blocks])[:-1])

    def scores(
        self, score: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int = PAIRS
    ) -> Iterator[np.ndarray]:
        """Scores [C] of each query's candidates; no more than a block is in memory.

        `score` takes pairs, numbers of queries and of texts, int32 [size] both -> [size]; every
        call has the same `size`, so that one program is compiled.
        """
        lengths = [block.text.max() + 1 - block.text[0] for block in self.blocks]
        offsets = np.cumsum([0, *lengths])
        first = np.array([block.text[0] for block in self.blocks])
        scored, query = np.zeros(0), 0  # those of `query` come first
        for start in range(0, offsets[-1], size):
            pairs = np.minimum(np.arange(start, start + size), offsets[-1] - 1)
            q = np.searchsorted(offsets, pairs, "right") - 1
            texts = first[q] + pairs - offsets[q]
            found = np.asarray(score(q.astype(np.int32), texts.astype(np.int32)))
            scored = np.concatenate([scored, found])
            while query < len(lengths) and lengths[query] <= len(scored):
                yield scored[self.blocks[query].text - first[query]]
                scored, query = scored[lengths[query] :], query + 1

    def target_ranks(self, scores: Iterable[np.ndarray]) -> Ranks:
        """Where the targets stand among false values, [Q], by `scores` [C] of each query.

        These are the query's sample, or all of the property's; other true values are left out.
        """
        return Ranks.concatenate(
            ranks(x[target], x[self.sample[q] if self.sample else self._false(q)])
            for q, (x, target) in enumerate(zip(scores, self.target[:, None], strict=True))
        )

    def known_ranks(self, scores: Iterable[np.ndarray]) -> tuple[Ranks, np.ndarray]:
        """Where all A true values stand among all values of their property; their queries [A]."""
        better, tied = Ranks.concatenate(
            ranks(x[true], x[block.ids != UNKNOWN])
            for x, true, block in zip(scores, self.known, self.blocks, strict=True)
        )
        query = np.repeat(np.arange(len(self.known)), [len(ids) for ids in self.known])
        return Ranks(better, tied - 1), query  # each ties with itself

    def _false(self, query: int) -> np.ndarray:
        """Positions of the property's values that are not true."""
        own = np.flatnonzero(self.blocks[query].ids != UNKNOWN)
        return np.delete(own, self.known[query])


def item_generator(name: str) -> np.random.Generator:
    """A generator of an item's or a query's own: the same in every split, order and setting."""
    digest = hashlib.blake2b(f"questions/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _other_pairs(own: Sequence[Triple], spellings: dict[str, str]) -> list[Triple]:
    """A property with values that it lacks, in an order that follows from its name."""
    name, taken = own[0][0], {normalised(value) for _, value in own}
    others = [spellings[key] for key in sorted(spellings) if key not in taken]
    return [(name, others[i]) for i in item_generator(name).permutation(len(others))]
