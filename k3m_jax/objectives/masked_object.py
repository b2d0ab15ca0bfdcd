"""MOM: masked object modelling on the fused regions, in its three variants."""

import jax
import jax.numpy as jnp

from k3m_jax.objectives.sums import Sum, weighted_sum

NCE_NEGATIVES_ELSEWHERE = 178  # 70 % of 255, from other items
NCE_NEGATIVES_WITHIN = 77  # 30 % of 255, from the same item


def class_divergence(
    logits: jax.Array, class_ids: jax.Array, class_probs: jax.Array, weights: jax.Array
) -> tuple[Sum, Sum]:
    """`KL(detector's distribution ‖ prediction)` and top-1 agreement of masked regions.

    Args:
      logits: [B, N, C] float32.
      class_ids: [B, N, c] the classes that the distribution has kept …
      class_probs: [B, N, c] … and their probabilities, summing to 1.
      weights: [B, N], 0 where no region is asked for.

    Returns:
      The divergence in nats and the number of regions whose likeliest class is predicted.
    """
    log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), class_ids, -1)
    # Where p = 0 its logarithm does not matter, but p log p must not pass through 0 · -inf: a run
    # that looks for NaNs would stop there.
    log_p = jnp.log(jnp.where(class_probs > 0, class_probs, 1.0))
    loss = (class_probs * (log_p - log_q)).sum(-1)
    likeliest = jnp.take_along_axis(class_ids, class_probs.argmax(-1, keepdims=True), -1)[..., 0]
    right = (logits.argmax(-1) == likeliest).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)


def feature_regression(prediction: jax.Array, features: jax.Array, weights: jax.Array) -> Sum:
    """Mean square over the feature's width: prediction and features [B, N, F], weights [B, N]."""
    return weighted_sum(jnp.square(prediction - features).mean(-1), weights)


def noise_contrastive(
    prediction: jax.Array,
    features: jax.Array,
    valid: jax.Array,
    weights: jax.Array,
    group: int,
    key: jax.Array,
) -> tuple[Sum, Sum]:
    """The true feature against 255 others by dot product: cross-entropy and top-1 accuracy.

    Args:
      prediction: [B, N, F] float32.
      features: [B, N, F] the true features of all regions.
      valid: [B, N] regions that exist; only they serve as negatives.
      weights: [B, N], 0 where no region is asked for.
      group: G, the contiguous rows among which other items are found.
      key: draws the negatives, with replacement.

    Returns:
      The loss in nats and the number of regions whose true feature scores highest. A region for
      which no negative exists costs 0.
    """
    B, N, F = features.shape
    rows = (B // group, group * N)
    # All scores inside a group are one matrix product; the negatives are then picked from it.
    scores = jnp.einsum(
        "gqf,gkf->gqk", prediction.reshape(*rows, F), features.reshape(*rows, F)
    ).reshape(B, N, group * N)
    row = (jnp.arange(B) % group)[:, None, None]
    region = jnp.arange(N)[None, :, None]
    item_key, region_key, within_key = jax.random.split(key, 3)
    shape = (B, N, NCE_NEGATIVES_ELSEWHERE)
    other = (row + jax.random.randint(item_key, shape, 1, max(group, 2))) % group
    elsewhere = other * N + jax.random.randint(region_key, shape, 0, N)
    shape = (B, N, NCE_NEGATIVES_WITHIN)
    within = row * N + (region + jax.random.randint(within_key, shape, 1, max(N, 2))) % N
    negatives = jnp.concatenate([elsewhere, within], -1)
    true = row * N + region
    exists = jnp.repeat(valid.reshape(rows), group, 0).reshape(B, 1, group * N)
    exists = jnp.take_along_axis(jnp.broadcast_to(exists, scores.shape), negatives, -1)
    exists &= negatives != true  # a group of one item, or an item of one region, has none
    negative_scores = jnp.where(
        exists, jnp.take_along_axis(scores, negatives, -1), jnp.finfo(jnp.float32).min
    )
    true_score = jnp.take_along_axis(scores, true, -1)
    loss = jax.nn.logsumexp(jnp.concatenate([true_score, negative_scores], -1), -1)
    loss -= true_score[..., 0]
    right = (true_score > negative_scores).all(-1).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)
