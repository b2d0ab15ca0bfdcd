"""Baselines without any model: the majority, the title's words, the nearest picture.

They see what the model sees: titles and pictures that are hidden, missing or another product's are
so for them too. Each task turns them into scores of the form that its head gives.
"""

import functools
import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from PIL import Image

from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Corruption

if TYPE_CHECKING:
    from k3m_jax.tasks.base import TaskSplit

BASELINES = ("majority", "title naive Bayes", "nearest picture")
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]  # of these
SIDE = 16  # pixels of a picture as it is compared
SMOOTHING = 1.0  # added to the count of each word


class SeenSplit(NamedTuple):
    """Examples, with words and pixels of all their N rows."""

    split: "TaskSplit"
    words: Sequence[tuple[str, ...]]  # of the title, () where there is none
    pixels: np.ndarray  # [N, SIDE² · 3] float32, NaN where there is no picture
    triples: Sequence[tuple[str, ...]] = ()  # each as one text, () where there is none

    @classmethod
    def read(cls, split: "TaskSplit", corruption: Corruption) -> Self:
        """Reads the rows of a split, corrupted."""
        cached = functools.lru_cache(1)(thumbnail)  # rows of an item are adjacent
        words, pixels, triples = [], [], []
        for view in itertools.chain.from_iterable(split.sources(corruption)):
            words.append(tuple(normalised(view.visible["title"]).split()))
            pairs = view.visible["knowledge"]
            triples.append(tuple(f"{normalised(p)}\t{normalised(v)}" for p, v in pairs))
            pixels.append(cached(view.visible["image"].jpeg))
        return cls(split, words, np.reshape(pixels, (-1, SIDE**2 * 3)), triples)


class NaiveBayes:
    """Multinomial naive Bayes over words, add-one smoothed; classes are numbers from 0."""

    def __init__(self, words: Sequence[Sequence[str]], labels: Sequence[int], classes: int):
        """Counts: `words` and `labels` are of the training examples."""
        labels = np.asarray(labels, np.int64)
        self._columns = {word: i for i, word in enumerate(sorted(set().union(*words)))}
        counts = np.full((classes, len(self._columns)), SMOOTHING)
        columns = [self._columns[word] for text in words for word in text]
        np.add.at(counts, (np.repeat(labels, [len(text) for text in words]), columns), 1.0)
        prior = np.bincount(labels, minlength=classes) + SMOOTHING
        self._prior = np.log(prior / prior.sum())
        self._likelihood = np.log(counts / counts.sum(1, keepdims=True))

    def __call__(self, text: Sequence[str]) -> np.ndarray:
        """Log joint probabilities [classes]; words that training lacks add nothing."""
        columns = [self._columns[word] for word in text if word in self._columns]
        return self._prior + self._likelihood[:, columns].sum(1)


def nearest(train: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Which of training's pictures is nearest to each, [N]; -1 where there is none."""
    from sklearn.metrics import pairwise_distances_argmin  # seconds to import

    pool, wanted = (np.flatnonzero(~np.isnan(x[:, 0])) for x in (train, pixels))
    found = np.full(len(pixels), -1)
    if len(pool) and len(wanted):
        found[wanted] = pool[pairwise_distances_argmin(pixels[wanted], train[pool])]
    return found


def thumbnail(picture: bytes) -> np.ndarray:
    """[SIDE² · 3], NaN where a picture is absent or, as for the model, unreadable."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except OSError:
        return np.full(SIDE**2 * 3, np.nan, np.float32)
    return np.asarray(small, np.float32).reshape(-1) / 255
