"""The objectives that the `release` preset has in the place of link prediction."""

import jax
import jax.numpy as jnp
import optax

from k3m_jax.objectives.sums import Sum, weighted_sum


def true_or_false_product(pair_logits: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
    """Two-way cross-entropy: c* is class 1, another product's c beside the same triples class 0.

    Args:
      pair_logits: [B, 2, 2] float32, the true product first.
      weights: [B], 0 where no such pair can be made.

    Returns:
      The loss and the rate of right answers, each the mean of a pair's two.
    """
    labels = jnp.broadcast_to(jnp.array([1, 0]), pair_logits.shape[:2])
    loss = optax.softmax_cross_entropy_with_integer_labels(pair_logits, labels)
    right = (pair_logits.argmax(-1) == labels).astype(jnp.float32)
    return weighted_sum(loss.mean(1), weights), weighted_sum(right.mean(1), weights)


def match(logits: jax.Array, mismatched: jax.Array) -> Sum:
    """Cross-entropy of logits [B, 2]; class 1 where any stream of the item is another product's.

    The authors' code computes it and leaves it out of the total.
    """
    labels = mismatched.astype(jnp.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return weighted_sum(loss, jnp.ones_like(loss))
