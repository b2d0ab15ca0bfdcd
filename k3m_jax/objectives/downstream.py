"""The losses of the downstream tasks: logits and answers to (weighted sum, weight)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from k3m_jax import settings
from k3m_jax.data.input.batch import Batch
from k3m_jax.objectives.sums import Sum, safe_ratio, weighted_sum

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


def weights(batch: Batch) -> dict[str, jax.Array]:
    """What the task's sum is divided by, known before the model is run."""
    return {"task": batch["label_weights"].sum()}


def sums_of(task: str) -> Callable[..., dict[str, Sum]]:
    """`pretraining.sums` of a downstream task: loss and accuracy of the head's logits."""

    def sums(
        outputs: jax.Array, batch: Batch, objectives: settings.Objectives, key: jax.Array | None
    ) -> dict[str, Sum]:
        del objectives, key
        loss, accuracy = _LOSSES[task](outputs, batch)
        return {"task": loss, "task_accuracy": accuracy}

    return sums


def total(
    results: Mapping[str, Sum], whole: Mapping[str, jax.Array], objectives: settings.Objectives
) -> jax.Array:
    """The mean over what is asked; as `pretraining.total`."""
    del objectives
    return safe_ratio(results["task"].total, whole["task"])


_LOSSES: dict[str, Callable[[jax.Array, Batch], tuple[Sum, Sum]]] = {
    "classification": lambda logits, batch: class_cross_entropy(
        logits, batch["label"], batch["label_weights"]
    ),
    # A pair is two rows, of which the first bears the label.
    "alignment": lambda logits, batch: pair_cross_entropy(
        logits, batch["label"][::2], batch["label_weights"][::2]
    ),
    "questions": lambda scores, batch: candidate_cross_entropy(
        scores, batch["link_value_weights"], batch["label_weights"]
    ),
}
