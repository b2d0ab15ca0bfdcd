"""Batches in which items of one product stand next to each other."""

import grain
import numpy as np

from k3m_jax.data.records import ItemView

Pair = tuple[ItemView, ItemView]


class Siblings:
    """The other items of each item's product."""

    def __init__(self, products: np.ndarray):
        """`products` [I] are equal for items of one product."""
        self._order = np.argsort(products, kind="stable")
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(products))
        ordered = products[self._order]
        self._start = np.searchsorted(ordered, ordered)
        self._end = np.searchsorted(ordered, ordered, side="right")

    def draw(self, item: int, rng: np.random.Generator) -> int:
        """Another item of the product of `item`, or any item where it has none."""
        place = self._place[item]
        start, end = self._start[place], self._end[place]
        if end - start == 1:
            return int(rng.integers(len(self._order)))
        other = start + rng.integers(end - start - 1)
        return int(self._order[other + (other >= place)])


def with_sibling(
    views: grain.MapDataset[ItemView], products: np.ndarray, seed: int
) -> grain.MapDataset[Pair]:
    """Items in random order, without end, each with one that `Siblings` draws."""
    siblings = Siblings(products)

    def pair(item: int, rng: np.random.Generator) -> Pair:
        return views[item], views[siblings.draw(item, rng)]

    return grain.MapDataset.range(len(products)).shuffle(seed).repeat().random_map(pair, seed=seed)
