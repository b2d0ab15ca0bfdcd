"""Metrics and their intervals, in NumPy. Scores that tie count by expectation, as guessing would.

A *statistic* is a metric of I examples for R weightings of them, `weights [R, I]`, at once: [R].
All ones is the metric itself, counts of a resampling are the bootstrap's.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # weights [R, I] -> [R]
RESAMPLINGS = 1000
CHUNK = 1 << 22  # weights held in memory


class Ranks(NamedTuple):
    """Q true answers: any rank from better + 1 to better + tied + 1 is as likely as the next."""

    better: np.ndarray  # [Q] candidates that score higher than the true answer
    tied: np.ndarray  # [Q] other candidates that score the same

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """The answers of all parts in their order."""
        return cls(*np.concatenate([np.zeros((2, 0), np.int64), *parts], 1))


def ranks(true: np.ndarray, others: np.ndarray) -> Ranks:
    """Places true answers' scores [Q] among other candidates' [C]; NaN counts as -inf."""
    true, others = (np.where(np.isnan(x), -np.inf, x) for x in (true[:, None], others))
    return Ranks((others > true).sum(1), (others == true).sum(1))


def hits_at(k: int, ranks: Ranks) -> np.ndarray:
    """Expected share of each true answer within the first `k`, [Q] float64."""
    return np.clip((k - ranks.better) / (ranks.tied + 1), 0.0, 1.0)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """Expected 1 / rank of each true answer, [Q] float64; its mean is MRR."""
    first, last = ranks.better + 1, ranks.better + ranks.tied + 1
    most = int(last.max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
    return (harmonic[last] - harmonic[first - 1]) / (ranks.tied + 1)


def set_hits_at(k: int, ranks: Ranks, query: np.ndarray) -> np.ndarray:
    """How much of the best `k` answers, or of all true ones where these are fewer, is true.

    |S ∩ best k| / min(k, |S|) for the set S of a query's true answers; with one it is the ordinary
    Hits@k. `ranks` are of A true answers among *all* other candidates, the true ones included;
    `query` [A] is which of the queries 0, 1, … each answers. Expected, [queries] float64.
    """
    return np.bincount(query, hits_at(k, ranks)) / np.minimum(k, np.bincount(query))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of what each example scored [I]: accuracy, Rank@k, MRR, Hits@k; NaN where nothing weighs."""
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(1)


def f1(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of predictions and labels, bool [I]; 0 where all three are 0."""
    true = weights @ (predicted & labels)
    wrong = weights @ (predicted ^ labels)
    return 2 * true / np.maximum(2 * true + wrong, np.finfo(float).tiny)


def macro_f1(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of each class' F1, over those that any example has or is predicted to have.

    Of classes [I], numbers from 0; a label below 0 is of a class that can't be predicted.
    """
    classes = max(predicted.max(initial=0), labels.max(initial=0)) + 1
    chosen, true = (
        np.equal.outer(x, np.arange(classes)).astype(float) for x in (predicted, labels)
    )
    right = 2 * (weights @ (chosen * true))
    either = weights @ (chosen + true)
    scores = np.divide(right, either, out=np.zeros_like(right), where=either > 0)
    with np.errstate(invalid="ignore"):
        return scores.sum(1) / (either > 0).sum(1)


def auc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """The chance that an example of label 1 scores above one of label 0, a tie being half.

    NaN where a weighting leaves one of both labels. With `groups` [I] an example is compared with
    those of its own group alone: recognising the group earns nothing. Scores [I]; labels bool [I].
    """
    groups = np.zeros(len(scores)) if groups is None else groups
    won = pairs = np.zeros(len(weights))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        order = own[np.argsort(scores[own], kind="stable")]
        starts = np.unique(scores[order], return_index=True)[1]  # of equal scores
        positive, negative = (
            np.add.reduceat(weights[:, order] * chosen[order], starts, axis=1)
            for chosen in (labels, ~labels)
        )
        below = np.cumsum(negative, 1) - negative
        won = won + (positive * (below + negative / 2)).sum(1)
        pairs = pairs + positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore"):
        return won / np.where(pairs, pairs, np.nan)


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold t whose `scores >= t` has the highest F1, halfway to the next score below.

    Of several the highest; without an example of label 1 infinity. Scores [I]; labels bool [I].
    """
    if not labels.any():
        return float("inf")
    levels, last, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    true = np.cumsum(np.bincount(last, labels, len(levels)))
    best = int((2 * true / (np.cumsum(counts) + labels.sum())).argmax())
    below = levels[min(best + 1, len(levels) - 1)]
    return float(-(levels[best] + below) / 2)


class Bootstrap:
    """95 % intervals by resampling products, with replacement, each with all of its examples.

    The items, pairs and queries of one product are right or wrong together. The draws are fixed:
    equal scores have equal intervals. `products` are those of I > 0 examples.
    """

    def __init__(self, products: Sequence[str]):
        self._product = np.unique(products, return_inverse=True)[1]

    def value(self, statistic: Statistic) -> float:
        """The statistic itself."""
        return float(statistic(np.ones((1, len(self._product))))[0])

    def interval(self, statistic: Statistic) -> tuple[float, float] | None:
        """Its percentiles 2.5 and 97.5; None where it is not defined."""
        rng, found, count = np.random.default_rng(0), [], self._product.max() + 1
        rows = max(1, CHUNK // len(self._product))
        for left in range(RESAMPLINGS, 0, -rows):
            drawn = rng.multinomial(count, np.full(count, 1 / count), min(left, rows))
            found.append(statistic(drawn[:, self._product].astype(np.float64)))
        found = np.concatenate(found)
        found = found[~np.isnan(found)]
        return tuple(map(float, np.percentile(found, (2.5, 97.5)))) if len(found) else None


def wilson_interval(totals: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the ratio totals.sum() / weights.sum(), a share between 0 and 1.

    Wilson's interval, which stays sound near 0 and 1, at the effective number of targets: the
    number of independent yes-or-no targets whose share would vary as much as this ratio does from
    item to item. Items count as wholes because the targets of one item (the masked tokens of one
    title) are not independent. `totals` [I] is what each got right of its `weights` [I] targets.
    """
    total, items = weights.sum(), np.count_nonzero(weights)
    share = totals.sum() / total
    variance = np.square(totals - share * weights).sum() / total**2
    binomial = share * (1 - share)
    # Nothing varies where every item got all or none of its targets right.
    targets = binomial / variance if variance > 0 and binomial > 0 else items
    z = 1.959964
    middle = (share + z**2 / (2 * targets)) / (1 + z**2 / targets)
    half = z * np.sqrt(binomial / targets + (z / (2 * targets)) ** 2) / (1 + z**2 / targets)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
