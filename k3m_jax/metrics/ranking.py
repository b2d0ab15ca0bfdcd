"""Ranks with ties by expectation, and intervals.

A true answer that is better than all but `better` candidates and scores the same as `tied` others
may come out at any of the ranks better + 1 … better + tied + 1, each as likely as the next. Every
metric here is the exact mean over those ranks: a model that scores everything alike gets what
guessing gets, whatever the order of the candidates. Counts add up over chunks of candidates, so a
ranking never needs all scores at once.
"""

from typing import NamedTuple

import numpy as np


class Ranks(NamedTuple):
    """Where the true answer of each of Q questions stands."""

    better: np.ndarray  # [Q] candidates that score higher than the true answer
    tied: np.ndarray  # [Q] other candidates that score the same


def ranks(true_scores: np.ndarray, scores: np.ndarray, counted: np.ndarray) -> Ranks:
    """Places each true answer among the candidates.

    Args:
      true_scores: the true answers' scores [Q]; higher is better, NaN is worse than any number.
      scores: the candidates' [Q, C]; NaN likewise.
      counted: integers [Q, C], how many candidates an entry stands for: 0 leaves it out (the true
        answer itself, or one that is filtered out).
    """
    true = true_scores[:, None]
    lost, unscored = np.isnan(true), np.isnan(scores)
    higher = (scores > true) | (lost & ~unscored)
    same = (scores == true) | (lost & unscored)
    return Ranks((higher * counted).sum(1), (same * counted).sum(1))


def hits_at(k: int, ranks: Ranks) -> np.ndarray:
    """Expected share of each true answer within the first `k`, [Q] float64."""
    return np.clip((k - ranks.better) / (ranks.tied + 1), 0.0, 1.0)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """Expected 1 / rank of each true answer, [Q] float64; its mean is MRR."""
    first, last = ranks.better + 1, ranks.better + ranks.tied + 1
    most = int(last.max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
    return (harmonic[last] - harmonic[first - 1]) / (ranks.tied + 1)


def interval(sums: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """95 % interval of the ratio sums.sum() / weights.sum(), a share between 0 and 1.

    Wilson's interval, which stays sound near 0 and 1, at the effective number of questions: the
    number of independent yes-or-no questions whose share would vary as much as this ratio does from
    item to item. Items count as wholes because the questions about one item (the masked tokens of
    one title) are not independent of one another.

    Args:
      sums: what each item got right [I].
      weights: what each item was asked [I]; at least one is positive.
    """
    total, items = weights.sum(), np.count_nonzero(weights)
    share = sums.sum() / total
    variance = np.square(sums - share * weights).sum() / total**2
    binomial = share * (1 - share)
    # Nothing varies where every item got all or nothing of its questions right.
    questions = binomial / variance if variance > 0 and binomial > 0 else items
    z = 1.959964
    middle = (share + z**2 / (2 * questions)) / (1 + z**2 / questions)
    half = z * np.sqrt(binomial / questions + (z / (2 * questions)) ** 2) / (1 + z**2 / questions)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
