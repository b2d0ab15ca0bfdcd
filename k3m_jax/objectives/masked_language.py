"""MLM: masked language modelling on the fused title."""

import jax
import jax.numpy as jnp
import optax

from k3m_jax.objectives.sums import Sum, weighted_sum


def masked_language(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
    """Cross-entropy and accuracy of masked tokens.

    Args:
      logits: [B, M, V] float32.
      targets: [B, M] token ids.
      weights: [B, M], 0 where no token is asked for.

    Returns:
      The loss and the number of tokens told right.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = (logits.argmax(-1) == targets).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)
