"""95 % intervals by resampling products.

The items, pairs and questions of one product stand or fall together, so that products are drawn,
with replacement, each with all of its examples. The draws are fixed: equal answers have equal
intervals.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights of the examples [R, I] -> [R]; see `task_metrics`."""

RESAMPLINGS = 1000
AT_ONCE = 1 << 22  # weights held in memory


class Resampling:
    """What is the same for all metrics of the same examples."""

    def __init__(self, products: Sequence[str], seed: int = 0):
        """`products`: of each of I > 0 examples."""
        names, self._product = np.unique(np.asarray(products, np.str_), return_inverse=True)
        self._count, self._seed = len(names), seed

    def value(self, statistic: Statistic) -> float:
        """The statistic itself."""
        return float(statistic(np.ones((1, len(self._product))))[0])

    def interval(self, statistic: Statistic) -> tuple[float, float] | None:
        """Its percentiles 2.5 and 97.5; None where it is not defined."""
        found = np.concatenate([statistic(weights) for weights in self._weights()])
        found = found[~np.isnan(found)]
        return tuple(map(float, np.percentile(found, (2.5, 97.5)))) if len(found) else None

    def _weights(self) -> Iterator[np.ndarray]:
        rng, left = np.random.default_rng(self._seed), RESAMPLINGS
        while left:
            rows = min(left, max(1, AT_ONCE // len(self._product)))
            drawn = rng.multinomial(self._count, np.full(self._count, 1 / self._count), rows)
            yield drawn[:, self._product].astype(np.float64)
            left -= rows
