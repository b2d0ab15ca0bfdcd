"""How averages are taken: sums over the whole batch, divided once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sum(NamedTuple):
    """A weighted sum and the weight that it is to be divided by, both float32 scalars."""

    total: jax.Array
    weight: jax.Array


def weighted_sum(values: jax.Array, weights: jax.Array) -> Sum:
    """Sum of values under weights of the same shape; a value of weight 0 may be anything."""
    return Sum(jnp.where(weights > 0, values * weights, 0.0).sum(), weights.sum())


def safe_ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`, and 0 with gradient 0 where nothing has weight."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)
