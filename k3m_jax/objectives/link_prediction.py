"""LPM: link prediction of the hidden triple, `E(c, p, v) = ‖c* + p − v‖` (TransE's energy)."""

from typing import Literal

import jax
import jax.numpy as jnp

from k3m_jax.objectives.sums import Sum, weighted_sum

Norm = Literal["l1", "l2"]


def energy(c: jax.Array, p: jax.Array, v: jax.Array, norm: Norm) -> jax.Array:
    """`‖c + p − v‖` over the last dimension; low where the triple is believed.

    The 2-norm's gradient at 0 is 0, not NaN.
    """
    difference = c + p - v
    if norm == "l1":
        return jnp.abs(difference).sum(-1)
    square = jnp.square(difference).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def link_margin(
    c: jax.Array,
    properties: jax.Array,
    values: jax.Array,
    value_weights: jax.Array,
    items: jax.Array,
    item_weights: jax.Array,
    *,
    group: int,
    margin: float,
    norm: Norm,
) -> tuple[Sum, Sum]:
    """`max(0, E(pos) − E(neg) + γ)` over the pairs of a true triple and a false one.

    Args:
      c: [B, D] product embeddings, made without the asked triple.
      properties: [B, J, D] of the candidate triples, the true one first.
      values: [B, J, D] likewise.
      value_weights: [B, J - 1], 0 where the candidate can't serve as a false one.
      items: [B, O] rows of other products within the item's own group.
      item_weights: [B, O] likewise.
      group: G, contiguous rows.
      margin: γ.
      norm: of the energy.

    Returns:
      The loss and the number of pairs in the right order.
    """
    candidates = energy(c[:, None], properties, values, norm)
    replaced = energy(_rows_of_group(c, items, group), properties[:, :1], values[:, :1], norm)
    negative = jnp.concatenate([candidates[:, 1:], replaced], 1)
    weights = jnp.concatenate([value_weights, item_weights], 1)
    positive = candidates[:, :1]
    loss = jax.nn.relu(positive - negative + margin)
    right = (positive < negative).astype(jnp.float32)
    return weighted_sum(loss, weights), weighted_sum(right, weights)


def _rows_of_group(c: jax.Array, items: jax.Array, group: int) -> jax.Array:
    """c [B, D], items [B, O] rows within each group -> [B, O, D]; no group reads another's rows."""
    (B, D), O = c.shape, items.shape[1]
    rows = c.reshape(B // group, group, D)
    wanted = items.reshape(B // group, group * O, 1)
    return jnp.take_along_axis(rows, wanted, 1).reshape(B, O, D)
