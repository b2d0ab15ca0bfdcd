"""AdamW with a decay mask, clipping of the global gradient, linear warm-up and linear decay.

Parameters that were imported may have a rate of their own.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax import settings
from k3m_jax.parallel.shardings import put_on_all_hosts, unbox
from k3m_jax.pretrained.weights_file import path_name


def learning_rate(optimizer: settings.Optimizer, steps: int, step: jax.Array) -> jax.Array:
    """The rate of `step` (from 0): up to the full rate at the end of warm-up, 0 after the last.

    It is a function of the step alone, not of a count in the optimizer's state, so that a refused
    step does not shift it.
    """
    warmup = round(optimizer.warmup * steps)
    rise = (step + 1) / max(warmup, 1)
    fall = (steps - step) / max(steps - warmup, 1)
    return optimizer.learning_rate * jnp.clip(jnp.minimum(rise, fall), 0.0, 1.0)


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay pulls to 0: all but biases and LayerNorm's scales.

    `params` is a tree of arrays, boxed or not; flax calls those two `bias` and `scale`.
    """

    def decays(path: tuple, _: jax.Array) -> bool:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return not names[-1].endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


class Marks(NamedTuple):
    """Part of the optimizer's state, so that a resumed run need not ask what was imported."""

    imported: Any  # in the tree of the parameters, a bool for each


def scale_imported(rate: float) -> optax.GradientTransformation:
    """Scales by `rate` what goes to the parameters that `mark_imported` names; before, to none."""

    def init(params: Any) -> Marks:
        return Marks(jax.tree.map(lambda _: jnp.bool_(False), unbox(params)))

    def update(updates: Any, state: Marks, params: Any = None) -> tuple[Any, Marks]:
        del params
        return jax.tree.map(lambda u, m: jnp.where(m, rate * u, u), updates, state.imported), state

    return optax.GradientTransformation(init, update)


def mark_imported(opt_state: Any, names: Collection[str]) -> Any:
    """The optimizer's state with these parameters as the imported ones, if it minds them."""

    def mark(path: tuple, old: jax.Array) -> jax.Array:
        return put_on_all_hosts(old.sharding, np.asarray(path_name(path) in names))

    return jax.tree.map(
        lambda node: (
            Marks(jax.tree_util.tree_map_with_path(mark, node.imported))
            if isinstance(node, Marks)
            else node
        ),
        opt_state,
        is_leaf=lambda node: isinstance(node, Marks),
    )


def make_optimizer(optimizer: settings.Optimizer) -> optax.GradientTransformation:
    """Gradients -> AdamW's direction; the step scales it by minus the learning rate."""
    clip = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    rate = optimizer.imported_rate
    return optax.chain(
        *clip,
        optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask),
        *([] if rate == 1 else [scale_imported(rate)]),
    )
