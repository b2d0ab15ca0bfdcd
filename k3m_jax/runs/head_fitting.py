"""Fitting a small head to embeddings that stay as they are.

Several strengths of an L2 penalty are tried at once; the one with the least loss on validation
examples is taken. Everything is fixed by the seed.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax.objectives.sums import safe_ratio
from k3m_jax.parallel.shardings import unbox
from k3m_jax.runs.task_scorers import TaskScorer
from k3m_jax.settings import UserError
from k3m_jax.training.optimizer import decay_mask

PENALTIES = (1e-6, 1e-4, 1e-2, 1e-1)  # half their sum of squares is added; not of biases
STEPS = 1000
BATCH = 128  # examples of a step
RATE = 1e-2  # of Adam, falling to 0 as a cosine


class Fitted(NamedTuple):
    """A head."""

    params: Any
    penalty: float
    valid_loss: float


def fit(
    judge: TaskScorer,
    train: Mapping[str, np.ndarray],
    valid: Mapping[str, np.ndarray],
    seed: int,
) -> Fitted:
    """Learns from training examples, `judge.inputs` of them, and chooses by validation examples.

    Raises:
      UserError: no head has a loss: what it reads is not finite, or nothing has a label.
    """
    start = unbox(judge.head.init_params(jax.random.key(seed)))
    penalties = jnp.array(PENALTIES, jnp.float32)
    params = _learn(judge, start, penalties, _placed(train), jax.random.key(seed))
    losses = mean_losses(judge, params, valid)
    if np.isnan(losses).all():
        raise UserError(
            "no head has a finite loss on the validation examples: the model's embeddings are not "
            "finite (measure another --checkpoint), or task.classes names none of their classes"
        )
    best = int(np.nanargmin(losses))
    return Fitted(jax.tree.map(lambda x: x[best], params), PENALTIES[best], float(losses[best]))


def mean_losses(judge: TaskScorer, params: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The loss of each of the stacked heads `params` on examples, [heads]."""
    total = jax.jit(jax.vmap(judge.loss, (0, None)))
    sums = [total(params, batch) for batch in _batches(inputs)]
    return np.sum([s.total for s in sums], 0) / np.sum([s.weight for s in sums], 0)


@functools.partial(jax.jit, static_argnums=0)
def _learn(
    judge: TaskScorer,
    start: Any,
    penalties: jax.Array,
    data: Mapping[str, jax.Array],
    key: jax.Array,
) -> Any:
    """The heads of all penalties, stacked."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    decays = decay_mask(start)
    count = len(data["c"])

    def loss(params, batch, penalty):
        squares = jax.tree.map(lambda p, d: d * jnp.square(p).sum(), params, decays)
        return safe_ratio(*judge.loss(params, batch)) + penalty / 2 * sum(jax.tree.leaves(squares))

    def learn(penalty):
        def step(state, key):
            params, opt_state = state
            rows = jax.random.randint(key, (min(BATCH, count),), 0, count)
            batch = {name: x[rows] for name, x in data.items()}
            gradient = jax.grad(loss)(params, batch, penalty)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        keys = jax.random.split(key, STEPS)
        return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]

    return jax.vmap(learn)(penalties)


def _placed(inputs: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    arrays = {name: jnp.asarray(x) for name, x in inputs.items()}
    return arrays | {"weight": jnp.ones(len(arrays["c"]))}


def _batches(inputs: Mapping[str, np.ndarray]):
    """All examples in batches of one size, the last filled up with what weighs nothing."""
    count = len(inputs["c"])
    for first in range(0, count, BATCH):
        rows = np.arange(first, first + BATCH)
        batch = {name: jnp.asarray(x[rows % count]) for name, x in inputs.items()}
        yield batch | {"weight": jnp.asarray(rows < count, jnp.float32)}
