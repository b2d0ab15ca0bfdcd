"""What stability needs no model for: an item's features laid side by side.

Words of the title, triples and pixels each make a part of the vector, of length 1 where the item
has it and 0 where not: what is missing leaves the other parts as they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.evaluation import stability
from k3m_jax.evaluation.stability import Metrics, Sample, unit
from k3m_jax.tasks.trivial_baselines import thumbnail

SIDE_BY_SIDE = "features side by side"


def measure(sample: Sample) -> dict[str, Metrics]:
    """The metrics of each floor by its name, as `stability.measure` gives them."""
    features = SideBySide([view for source in sample.views() for view in source])
    return {SIDE_BY_SIDE: stability.measure(sample, features, cosines=Parts.cosines)}


class SideBySide:
    """TF-IDF of the words of titles and of triples, counted over some items, and 16 x 16 pixels."""

    def __init__(self, items: Sequence[ItemView]):
        from sklearn.feature_extraction.text import TfidfVectorizer  # seconds to import

        self._parts = []
        for terms in (_words, _triples):
            counted = TfidfVectorizer(analyzer=lambda text: text, dtype=np.float64)
            try:
                self._parts.append((terms, counted.fit([terms(view) for view in items])))
            except ValueError:  # no item has any
                continue
        pixels = _pixels(items)
        seen = ~np.isnan(pixels[:, :1])
        self._mean = pixels.mean(0, where=seen) if seen.any() else 0.0

    def __call__(self, sources: Sequence[Sequence[ItemView]]) -> "Parts":
        """The vectors of all items."""
        items = [view for source in sources for view in source]
        texts = [counted.transform(map(terms, items)) for terms, counted in self._parts]
        pixels = unit(np.nan_to_num(_pixels(items) - self._mean))
        present = [np.diff(text.indptr) > 0 for text in texts] + [pixels.any(1)]
        return Parts(texts, pixels, np.sqrt(np.maximum(np.sum(present, axis=0), 1)))


class Parts(NamedTuple):
    """Vectors in parts, each of length 1 or 0."""

    texts: list[Any]  # sparse matrices of SciPy, [rows, terms]
    pixels: np.ndarray  # [rows, pixels]
    length: np.ndarray  # [rows] of the whole vectors

    @staticmethod
    def cosines(corrupted: "Parts", complete: "Parts", rows: slice) -> np.ndarray:
        """Of some rows with all complete ones, [rows, N]."""
        products = corrupted.pixels[rows] @ complete.pixels.T
        for a, b in zip(corrupted.texts, complete.texts, strict=True):
            products += (a[rows] @ b.T).toarray()
        return products / corrupted.length[rows, None] / complete.length


def _words(view: ItemView) -> list[str]:
    return normalised(view.visible["title"]).split()


def _triples(view: ItemView) -> list[str]:
    return [f"{normalised(p)}={normalised(v)}" for p, v in view.visible["knowledge"]]


def _pixels(items: Sequence[ItemView]) -> np.ndarray:
    """[N, pixels] float32, NaN where there is no picture."""
    return np.stack([thumbnail(view.visible["image"].jpeg) for view in items])
