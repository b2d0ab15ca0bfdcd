"""AdamW with a decay mask, clipping of the global gradient, linear warm-up and linear decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from k3m_jax import settings


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
        return names[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(optimizer: settings.Optimizer) -> optax.GradientTransformation:
    """Gradients -> AdamW's direction; the step scales it by minus the learning rate."""
    clip = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask),
    )
