"""AdamW with warm-up and decay, and a rate of their own for imported parameters."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax import settings
from k3m_jax.parallel.placement import put_on_all_hosts
from k3m_jax.parallel.shardings import path_name


def learning_rate(optimizer: settings.Optimizer, steps: int, step: jax.Array) -> jax.Array:
    """The rate of `step` (from 0): up to the full rate at the end of warm-up, 0 after the last.

    Not of a count in the optimizer's state, which a refused step does not raise.
    """
    warmup = round(optimizer.warmup * steps)
    rise = (step + 1) / max(warmup, 1)
    fall = (steps - step) / max(steps - warmup, 1)
    return optimizer.learning_rate * jnp.clip(jnp.minimum(rise, fall), 0.0, 1.0)


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay pulls to 0: not biases and LayerNorm's scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not path[-1].key.endswith(("bias", "scale")), params
    )


class ImportedState(NamedTuple):
    """Part of the optimizer's state: `imported` has a bool for each parameter, in their tree."""

    imported: Any


def scale_imported(rate: float) -> optax.GradientTransformation:
    """Scales by `rate` the updates of the parameters that `mark_imported` has named."""
    return optax.GradientTransformation(
        lambda params: ImportedState(jax.tree.map(lambda _: jnp.bool_(False), params)),
        lambda updates, state, _: (
            jax.tree.map(lambda u, mark: jnp.where(mark, rate * u, u), updates, state.imported),
            state,
        ),
    )


def mark_imported(opt_state: Any, names: Collection[str]) -> Any:
    """The optimizer's state with these parameters as the imported ones, if it scales them."""
    marks = optax.tree.get(opt_state, "imported")
    if marks is None:
        return opt_state
    marks = jax.tree_util.tree_map_with_path(
        lambda path, x: put_on_all_hosts(x.sharding, np.asarray(path_name(path) in names)), marks
    )
    return optax.tree.set(opt_state, imported=marks)


def make_optimizer(optimizer: settings.Optimizer) -> optax.GradientTransformation:
    """Gradients -> AdamW's direction; `train_step` scales it by minus the learning rate."""
    clip, rate = optimizer.clip_norm, optimizer.imported_rate
    return optax.chain(
        *([optax.clip_by_global_norm(clip)] if clip else []),
        optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask),
        *([] if rate == 1 else [scale_imported(rate)]),
    )
