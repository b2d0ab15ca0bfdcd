"""What the tasks give without any model: the majority, the title's words, the nearest picture.

They see what the model sees: titles and pictures that are hidden, missing or another product's are
so for them too. Each gives scores of the form that a head gives, and is measured by the same code.
"""

import collections
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from k3m_jax.data.store.value_vocabulary import ValueVocabulary, normalised
from k3m_jax.evaluation.questions import CandidateIndex, CandidateSet

MAJORITY, TITLE, PICTURE = "majority", "title naive Bayes", "nearest picture"
BASELINES = (MAJORITY, TITLE, PICTURE)

SIDE = 16  # pixels of a picture as the floor compares it
AT_ONCE = 1 << 24  # distances held in memory
SMOOTHING = 1.0  # added to the count of each word


class RawFeatures(NamedTuple):
    """Words and pixels of N rows."""

    words: list[tuple[str, ...]]  # of the title, () where there is none
    pixels: np.ndarray  # [N, SIDE² · 3] float32, 0 where there is no picture
    pictured: np.ndarray  # bool [N]

    def take(self, rows: np.ndarray) -> "RawFeatures":
        """Some of the rows."""
        return RawFeatures([self.words[i] for i in rows], self.pixels[rows], self.pictured[rows])


def raw_features(sources: Sequence[Sequence[Mapping[str, Any]]]) -> RawFeatures:
    """Reads the rows of all sources."""
    words, pixels = [], []
    seen: tuple[bytes, np.ndarray | None] = b"", None
    for source in sources:
        for record in source:
            words.append(tuple(normalised(record["title"]).split()))
            if record["picture"] != seen[0]:  # rows of one item follow one another
                seen = record["picture"], _pixels(record["picture"])
            pixels.append(seen[1])
    blank = np.zeros(SIDE**2 * 3, np.float32)
    return RawFeatures(
        words,
        np.stack([blank if p is None else p for p in pixels]),
        np.array([p is not None for p in pixels]),
    )


class NaiveBayes:
    """Multinomial naive Bayes over words, add-one smoothed; classes are numbers from 0."""

    def __init__(self, words: Sequence[Sequence[str]], labels: Sequence[int], classes: int):
        """Counts: `words` and `labels` are of the training examples."""
        self._columns = {w: i for i, w in enumerate(sorted({w for text in words for w in text}))}
        counts = np.full((classes, len(self._columns)), SMOOTHING)
        lengths = [len(text) for text in words]
        columns = [self._columns[w] for text in words for w in text]
        np.add.at(counts, (np.repeat(np.asarray(labels, np.int64), lengths), columns), 1.0)
        prior = np.bincount(np.asarray(labels, np.int64), minlength=classes) + SMOOTHING
        self._prior = np.log(prior / prior.sum())
        self._likelihood = np.log(counts / counts.sum(1, keepdims=True))

    def __call__(self, text: Sequence[str]) -> np.ndarray:
        """Log joint probabilities [classes]; words that training has not say nothing."""
        columns = [self._columns[w] for w in text if w in self._columns]
        return self._prior + self._likelihood[:, columns].sum(1)


def nearest(train: RawFeatures, asked: RawFeatures) -> np.ndarray:
    """The training row whose pixels are nearest, [N]; -1 where a picture lacks."""
    pool = np.flatnonzero(train.pictured)
    found = np.full(len(asked.words), -1)
    if not len(pool):
        return found
    known, wanted = train.pixels[pool], np.flatnonzero(asked.pictured)
    squares = np.square(known).sum(1)
    step = max(1, AT_ONCE // len(pool))
    for start in range(0, len(wanted), step):
        chunk = wanted[start : start + step]
        found[chunk] = pool[(squares - 2 * asked.pixels[chunk] @ known.T).argmin(1)]
    return found


Scores = Mapping[str, np.ndarray]  # by floor


def classification(
    train: RawFeatures, labels: np.ndarray, asked: RawFeatures, classes: int
) -> Scores:
    """Scores [N, classes] of asked items, from training items and their `labels`.

    The majority breaks the ties of the nearest picture, and stands where there is no picture.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    frequent = np.tile(counts / (counts.sum() + 1), (len(asked.words), 1))
    bayes = NaiveBayes(train.words, labels, classes)
    near = nearest(train, asked)
    alike = frequent.copy()
    seen = np.flatnonzero(near >= 0)
    alike[seen, labels[near[seen]]] += 1
    return {MAJORITY: frequent, TITLE: np.stack([bayes(w) for w in asked.words]), PICTURE: alike}


def alignment(train: RawFeatures, labels: np.ndarray, asked: RawFeatures) -> Scores:
    """Scores [I] of asked pairs, whose rows lie side by side, as those of training do.

    Words are told apart by whether both titles have them or one; a pair of which a picture lacks is
    as far apart as the farthest.
    """
    bayes = NaiveBayes(_words_of_pairs(train), labels, 2)
    by_title = [bayes(words) for words in _words_of_pairs(asked)]
    both = asked.pictured.reshape(-1, 2).all(1)
    a, b = np.moveaxis(asked.pixels.reshape(len(both), 2, -1), 1, 0)
    distance = np.linalg.norm(a - b, axis=1)
    farthest = np.sqrt(SIDE**2 * 3)
    return {
        MAJORITY: np.zeros(len(both)),
        TITLE: np.array([x[1] - x[0] for x in by_title]),
        PICTURE: -np.where(both, distance, farthest),
    }


def questions(
    train: RawFeatures,
    facts: Sequence[frozenset[int]],
    asked: RawFeatures,
    places: CandidateIndex,
    texts: CandidateSet,
    table: ValueVocabulary,
) -> Scores:
    """Scores [P] of the candidates of asked questions.

    Args:
      train: of training items …
      facts: … and which values of the table each has.
      asked: of the questions' items.
      places: of the questions' candidates.
      texts: the candidates.
      table: of the values.
    """
    ids = texts.ids[places.rows]
    # What the property never has is behind all that it has.
    frequent = np.where(ids >= 0, table.counts[ids], -1.0)
    by_title, alike = frequent.copy(), frequent / (table.counts.max(initial=0) + 1)
    near = nearest(train, asked)
    bayes: dict[int, tuple[NaiveBayes, int]] = {}
    bearers = collections.defaultdict(list)
    for item, values in enumerate(facts):
        for value in values:
            bearers[value].append(item)
    for q in range(len(places.target)):
        block = slice(places.offsets[q], places.offsets[q + 1])
        own = np.flatnonzero(ids[block] >= 0) + places.offsets[q]
        first = int(ids[own[0]])
        if first not in bayes:
            told = [(item, value) for value in ids[own].tolist() for item in bearers[value]]
            words = [train.words[item] for item, _ in told]
            bayes[first] = NaiveBayes(words, [v - first for _, v in told], len(own))
        by_title[block] = -np.inf
        by_title[own] = bayes[first](asked.words[q])
        if near[q] >= 0:
            alike[own] += np.isin(ids[own], list(facts[near[q]]))
    return {MAJORITY: frequent, TITLE: by_title, PICTURE: alike}


def facts_of(record: Mapping[str, Any], table: ValueVocabulary) -> frozenset[int]:
    """The values of the table that an item has."""
    pairs = zip(record["properties"], record["values"], strict=True)
    return frozenset(table.id(name, value) for name, value in pairs) - {-1}


def _words_of_pairs(rows: RawFeatures) -> list[tuple[str, ...]]:
    found = []
    for first, second in zip(rows.words[::2], rows.words[1::2], strict=True):
        a, b = set(first), set(second)
        found.append((*(f"both {w}" for w in sorted(a & b)), *(f"one {w}" for w in sorted(a ^ b))))
    return found


def _pixels(picture: bytes) -> np.ndarray | None:
    if not picture:
        return None
    try:
        with Image.open(io.BytesIO(picture)) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except OSError:  # a picture that can't be read counts as absent, as for the model
        return None
    return np.asarray(small, np.float32).reshape(-1) / 255
