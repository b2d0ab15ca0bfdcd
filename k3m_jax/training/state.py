"""What a run carries from step to step: arrays, nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from k3m_jax.model.network import Network
from k3m_jax.training.optimizer import make_optimizer


class State(NamedTuple):
    """The state after `step` steps.

    Random numbers are no part of it: they are drawn from the run's seed and the step.
    """

    step: jax.Array  # int32: batches seen
    params: Any
    opt_state: Any
    skipped: jax.Array  # int32: steps refused because the loss or the gradient was not finite


def init_state(network: Network, seed: jax.Array | int) -> State:
    """The state before the first step, its arrays boxed with their logical names."""
    params = network.init_params(jax.random.key(seed))
    opt_state = make_optimizer(network.settings.optimizer).init(params)
    return State(jnp.int32(0), params, opt_state, jnp.int32(0))
