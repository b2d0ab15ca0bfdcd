"""What is hidden from the model and asked for: tokens of titles, regions of pictures."""

import numpy as np

# BERT's shares, in training. A token or region that is asked for but left as it is keeps the
# encoder from learning that what it sees unmasked never matters. At evaluation all that is asked
# for is hidden: an answer that can be read off the input measures nothing.
TOKEN_MASKED, TOKEN_RANDOM = 0.8, 0.1
REGION_HIDDEN = 0.9
# A detector's boxes overlap, and a hidden region would be read off one that shows much the same.
# What overlaps a hidden region by more than this (intersection over union) is hidden with it, as
# ViLBERT does.
OVERLAP = 0.4


def num_targets(count: int, rate: float) -> int:
    """How many of `count` tokens or regions are asked for: at least one, of none none.

    A rate of 0 asks for nothing.
    """
    return min(count, max(1, round(rate * count))) if rate > 0 else 0


def mask_tokens(
    content: np.ndarray,
    rate: float,
    limit: int,
    mask: int,
    ordinary: np.ndarray,
    rng: np.random.Generator,
    *,
    training: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks tokens of a title: in training 80 % [MASK], 10 % a random token, 10 % kept.

    Args:
      content: the title's tokens without [CLS] and [SEP], int32 [n].
      rate: share of them asked for.
      limit: M, how many can be asked for.
      mask: the id of [MASK].
      ordinary: ids that a random token is drawn from: no special ones.
      rng: what is drawn by.
      training: False makes each of them [MASK].

    Returns:
      The tokens with those replaced [n], and the positions asked for, ascending [m].
    """
    n = len(content)
    positions = np.sort(rng.permutation(n)[: min(limit, num_targets(n, rate))])
    fate = rng.random(len(positions)) if training else np.zeros(len(positions))
    random = ordinary[rng.integers(len(ordinary), size=len(positions))]
    masked = content.copy()
    masked[positions] = np.where(
        fate < TOKEN_MASKED,
        mask,
        np.where(fate < TOKEN_MASKED + TOKEN_RANDOM, random, content[positions]),
    )
    return masked, positions


def mask_regions(
    boxes: np.ndarray, rate: float, rng: np.random.Generator, *, training: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draws regions to ask for; hides 90 % of them (in training), with whatever shows the same.

    Args:
      boxes: of the picture's regions, float [n, 4]. A grid's cells do not overlap.
      rate: share of them asked for.
      rng: what is drawn by.
      training: False hides all of them.

    Returns:
      (asked [n], hidden [n]), bool.
    """
    n = len(boxes)
    chosen = np.zeros(n, bool)
    chosen[rng.permutation(n)[: num_targets(n, rate)]] = True
    hidden = chosen & (rng.random(n) < REGION_HIDDEN) if training else chosen.copy()
    if hidden.any():
        hidden |= (overlaps(boxes, boxes[hidden]) > OVERLAP).any(1)
    return chosen, hidden


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x1, y1, x2, y2): [n, 4] and [m, 4] to [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    union = _areas(a)[:, None] + _areas(b)[None] - common
    return common / np.maximum(union, 1e-9)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)
