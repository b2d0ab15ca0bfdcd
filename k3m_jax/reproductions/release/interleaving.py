"""Two streams that run through layers of their own and interact in co-attention blocks in between.

Each pass is one scan over the blocks, compiled once however many there are, unless `model.unroll`
says otherwise. One stack of layers serves several passes: parts of its parameters go through each
of these scans.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.model.layers import Mask, Numerics


class Stack(NamedTuple):
    """What `scan_layers` made, to be run layer by layer, in parts or more than once."""

    layer: nn.Module  # one of them, unbound
    params: Any  # of all: [times, …] each
    numerics: Numerics

    @classmethod
    def of(cls, scanned: nn.Module, layer: nn.Module) -> Self:
        """`scanned` is an initialised scan over modules as `layer`, which is unbound."""
        return cls(layer, nn.unbox(scanned.variables["params"]), layer.numerics)

    def apply(self, params: Any, key: jax.Array, *args: Any) -> Any:
        """One layer of `params`, its dropout drawn from `key`: (x, …) -> x."""

        def run(params: Any, key: jax.Array, *args: Any) -> Any:
            return self.layer.apply({"params": params}, *args, rngs={"dropout": key})[0]

        return self.numerics.checkpoint(jax.checkpoint, run)(params, key, *args)


class Segment(NamedTuple):
    """Layers of a stack that are run one after the other."""

    params: Any  # [n, …] each
    active: np.ndarray  # [n] bool; the output of an inactive layer is its input


class Schedule(NamedTuple):
    """A stack cut where the co-attention blocks stand."""

    stack: Stack
    before: Segment  # the first block
    after: Segment  # each of the K blocks: [K, n, …]

    @classmethod
    def of(cls, stack: Stack, before: Sequence[int]) -> Self:
        """`before[k]` layers are run before block k, and the rest after the last one.

        Scanned parts are equally long: where the schedule is uneven, inactive layers fill them.
        """
        layers = len(jax.tree.leaves(stack.params)[0])
        bounds = np.array([*before, layers])
        counts = np.diff(bounds)
        places = np.arange(counts.max())
        index = np.minimum(bounds[:-1, None] + places, layers - 1)

        def segment(index: np.ndarray, active: np.ndarray) -> Segment:
            return Segment(jax.tree.map(lambda p: p[index], stack.params), active)

        first = np.arange(bounds[0])
        return cls(stack, segment(first, first >= 0), segment(index, places < counts[:, None]))

    def start(self, x: jax.Array, mask: Mask, key: jax.Array) -> jax.Array:
        """x [B, S, width] at the first block."""
        return self.run(self.before, x, mask, key)

    def run(self, segment: Segment, x: jax.Array, mask: Mask, key: jax.Array) -> jax.Array:
        """x [B, S, width] through the layers of a segment."""

        def step(x, part):
            params, active, key = part
            return jnp.where(active, self.stack.apply(params, key, x, mask), x), None

        keys = jax.random.split(key, len(segment.active))
        return jax.lax.scan(step, x, (*segment, keys), unroll=self.stack.numerics.unroll)[0]


def interact(
    blocks: Stack,
    schedules: tuple[Schedule, Schedule],
    streams: tuple[jax.Array, jax.Array],
    masks: tuple[Mask, Mask],
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Two streams, both at the first block, through all blocks and the layers after each.

    Args:
      blocks: K co-attention blocks.
      schedules: of each stream's own layers.
      streams: [B, S, width] each, the first a text.
      masks: of each stream.
      key: of dropout.
    """
    first, second = schedules

    def step(streams, part):
        params, one, other, key = part
        keys = jax.random.split(key, 3)
        x, y = blocks.apply(params, keys[0], streams, *masks)
        return (first.run(one, x, masks[0], keys[1]), second.run(other, y, masks[1], keys[2])), None

    keys = jax.random.split(key, len(first.after.active))
    parts = blocks.params, first.after, second.after, keys
    return jax.lax.scan(step, streams, parts, unroll=blocks.numerics.unroll)[0]
