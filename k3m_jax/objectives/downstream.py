"""The losses of the downstream tasks: logits and answers to (weighted sum, weight)."""

import jax
import jax.numpy as jnp
import optax

from k3m_jax.objectives.sums import Sum, weighted_sum

NEVER = -1e30  # the score of what is no candidate; -inf would make gradients NaN


def class_cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[Sum, Sum]:
    """Classification: loss and accuracy of logits [I, classes], labels [I], weights [I]."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)


def pair_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
    """Alignment: loss and accuracy of logits [I], labels [I] 0 or 1, weights [I]."""
    loss = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
    right = ((logits > 0) == (labels > 0)).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)


def candidate_cross_entropy(
    scores: jax.Array, usable: jax.Array, weights: jax.Array
) -> tuple[Sum, Sum]:
    """Questions: softmax over an item's candidates, the true one first.

    Args:
      scores: [I, J].
      usable: [I, J - 1], 0 where the candidate can't serve as a false one.
      weights: [I]; without a false candidate an item weighs nothing.

    Returns:
      The loss, and how often the true one scores highest.
    """
    weights = weights * (usable > 0).any(1)
    false = jnp.where(usable > 0, scores[:, 1:], NEVER)
    loss = jax.nn.logsumexp(jnp.concatenate([scores[:, :1], false], 1), 1) - scores[:, 0]
    right = (scores[:, 0] > false.max(1)).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)
