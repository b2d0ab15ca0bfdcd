"""Recall of products' other items among the nearest, and what titles and raw pixels alone reach."""

import collections
import functools
from collections.abc import Sequence

import numpy as np

from k3m_jax import metrics
from k3m_jax.applications.neighbours import QUERIES, VectorIndex
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.evaluation.report import Score


def recall(found: np.ndarray, own: Sequence[int], products: Sequence[str], k: int) -> np.ndarray:
    """|other items of the product ∩ best k| / min(k, other items) of each query, float64 [Q].

    `found` [Q, >= k] are the rows of neighbours, `own` [Q] the queries' rows.
    """
    sizes, scored = collections.Counter(products), []
    for row, near in zip(own, found, strict=True):
        right = sum(products[int(other)] == products[row] for other in near[:k])
        scored.append(right / min(k, sizes[products[row]] - 1))
    return np.array(scored)


def with_others(products: Sequence[str], most: int, seed: int = 0) -> np.ndarray:
    """Rows of items whose product has others, ascending; a fair sample of `most` at most."""
    sizes = collections.Counter(products)
    rows = np.array([row for row, product in enumerate(products) if sizes[product] > 1], int)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def nearest_titles(titles: Sequence[str], own: Sequence[int], k: int) -> np.ndarray:
    """The k titles with the largest Jaccard index of words with each of `own` [Q], rows [Q, k]."""
    from scipy import sparse  # of scikit-learn

    words: dict[str, int] = {}
    texts = [
        sorted({words.setdefault(w, len(words)) for w in normalised(t).split()}) for t in titles
    ]
    ends = np.cumsum([0, *map(len, texts)])
    columns = np.concatenate([*texts, []]).astype(int)
    shape = len(texts), max(1, len(words))
    matrix = sparse.csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape)
    counts, found = np.diff(ends), []
    for start in range(0, len(own), QUERIES):
        rows = np.asarray(own[start : start + QUERIES])
        both = (matrix[rows] @ matrix.T).toarray()
        score = both / np.maximum(counts[rows][:, None] + counts - both, 1)
        score[np.arange(len(rows)), rows] = -1
        found.append(np.argsort(-score, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def nearest_pictures(pixels: np.ndarray, own: Sequence[int], k: int) -> np.ndarray:
    """The k pictures with the least distance to each of `own`, rows [Q, k]; NaN is far from all."""
    known = np.where(np.isnan(pixels), 0, pixels)
    square = np.square(known).sum(1, keepdims=True)
    far = np.where(np.isnan(pixels[:, :1]), 1e6, 0).astype(np.float32)
    # -|x - y|² + |x|² = 2 x·y - |y|²: a scalar product.
    index = VectorIndex(np.concatenate([2 * known, -square - far], 1))
    queries = np.concatenate([known, np.ones_like(square)], 1)[own]
    return np.stack([rows for _, rows in index.neighbours(queries, own, k)]).astype(int)


def score(rows: np.ndarray, own: np.ndarray, products: Sequence[str], k: int) -> Score:
    """The mean of `recall` with its 95 % interval, resampling products."""
    bootstrap = metrics.Bootstrap([products[row] for row in own])
    statistic = functools.partial(metrics.mean, recall(rows, own, products, k))
    return Score(bootstrap.value(statistic), bootstrap.interval(statistic))
