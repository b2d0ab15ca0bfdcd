"""The metrics of the downstream tasks, in NumPy, each for any weighting of the examples at once.

`weights [R, I]` has R weightings of I examples; a metric gives one number [R] for each. All ones is
the metric itself, counts of a resampling are the bootstrap's (`bootstrap`). Scores that tie count
by expectation, as everywhere (`metrics`).
"""

import numpy as np

from k3m_jax.metrics.ranking import Ranks


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of what each example scored [I]: accuracy, Rank@k, MRR, Hits@k; NaN where nothing weighs."""
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(1)


def f1(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of predictions and labels, bool [I]; 0 where all three are 0."""
    true = weights @ (predicted & labels)
    wrong = weights @ (predicted ^ labels)
    return 2 * true / np.maximum(2 * true + wrong, np.finfo(float).tiny)


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The chance that an example of label 1 scores above one of label 0, a tie being half.

    Args:
      scores: [I].
      labels: bool [I].
      weights: [R, I].

    Returns:
      [R], NaN where a weighting leaves one of both labels.
    """
    return auc_within(np.zeros(len(scores)), scores, labels, weights)


def auc_within(
    groups: np.ndarray, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The same where an example is compared with those of its own group alone, groups [I].

    Where groups differ in how often the label is 1, knowing the group is worth something to `auc`
    and nothing to this.
    """
    won = pairs = np.zeros(len(weights))
    for group in np.unique(groups):
        own = groups == group
        more = _won(scores[own], labels[own], weights[:, own])
        won, pairs = won + more[0], pairs + more[1]
    with np.errstate(invalid="ignore"):
        return won / np.where(pairs, pairs, np.nan)


def _won(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of all pairs of both labels how many the label 1 wins, and how many there are, [R] each."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    positive, negative = (
        np.add.reduceat((weights * chosen)[:, order], starts, axis=1)
        for chosen in (labels, ~labels)
    )
    below = np.cumsum(negative, 1) - negative
    won = (positive * (below + negative / 2)).sum(1)
    return won, positive.sum(1) * negative.sum(1)


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold t whose `scores >= t` has the highest F1, halfway to the next score below.

    Of several the highest. Without an example of label 1 every threshold is as good: infinity.

    Args:
      scores: of validation examples [I].
      labels: bool [I].
    """
    if not labels.any():
        return float("inf")
    levels, last, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    true = np.cumsum(np.bincount(last, labels, len(levels)))
    best = int((2 * true / (np.cumsum(counts) + labels.sum())).argmax())
    below = levels[min(best + 1, len(levels) - 1)]
    return float(-(levels[best] + below) / 2)


def set_hits_at(k: int, places: Ranks, question: np.ndarray, questions: int) -> np.ndarray:
    """How much of the best `k` answers, or of all true ones where these are fewer, is true.

    |S ∩ best k| / min(k, |S|) for the set S of a question's true answers: 1 where no other choice
    of k answers would be better. With one true answer it is the ordinary Hits@k.

    Args:
      k: answers looked at.
      places: where each of A true answers stands among *all* candidates, the true ones included.
      question: [A] which question each is an answer to.
      questions: how many there are, each with an answer.

    Returns:
      [questions] float64, the expectation over orders of what ties.
    """
    among = np.clip((k - places.better) / (places.tied + 1), 0.0, 1.0)
    found = np.bincount(question, among, questions)
    return found / np.minimum(k, np.bincount(question, minlength=questions))
