"""One step of a run, as a pure function of arrays."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from k3m_jax import objectives, tasks
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives.base import Batch, Sum, safe_ratio
from k3m_jax.training.optimizer import learning_rate, make_optimizer

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """What a run carries from step to step; random numbers are drawn from its seed and the step."""

    step: jax.Array  # int32: batches seen
    params: Params
    opt_state: Any
    skipped: jax.Array  # int32: steps refused because the loss or the gradient was not finite


def init_state(network: Network, seed: jax.Array | int) -> State:
    """The state before the first step."""
    params = network.init_params(jax.random.key(seed))
    opt_state = make_optimizer(network.settings.optimizer).init(params)
    return State(jnp.int32(0), params, opt_state, jnp.int32(0))


def train_step(
    network: Network, seed: jax.Array, state: State, batch: Batch
) -> tuple[State, Metrics]:
    """The next state, and the losses and rates of this step as float32 scalars.

    `batch` is that of all devices, see `data.input.batch.BatchLayout`; `seed` is a uint32 array, so
    that one program serves repetitions of a run.
    """
    s = network.settings
    active = tasks.training_objectives(s)
    # A micro-batch's own weights would average averages.
    whole = objectives.target_weights(active, batch)
    temperature = gumbel_temperature(network, state.step)

    def loss(params: Params, micro: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Sum]]:
        noise, negatives = jax.random.split(key)
        outputs = network.apply(params, micro, temperature=temperature, key=noise)
        sums = objectives.sums(active, outputs, micro, negatives)
        return objectives.total(active, sums, whole), sums

    differentiate = jax.grad(loss, has_aux=True)

    def add(gradient: Params, micro: tuple[Batch, jax.Array]) -> tuple[Params, dict[str, Sum]]:
        part, sums = differentiate(state.params, *micro)
        return jax.tree.map(jnp.add, gradient, part), sums

    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if (count := s.training.accumulation) == 1:
        gradient, sums = differentiate(state.params, batch, key)
    else:
        micros = micro_batches(batch, count, s.training.batch // BatchLayout.of(s).unit)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        gradient, sums = jax.lax.scan(add, zeros, (micros, jax.random.split(key, count)))
        sums = jax.tree.map(lambda x: x.sum(0), sums)
    total, norm = objectives.total(active, sums, whole), optax.tree.norm(gradient)
    optimizer = make_optimizer(s.optimizer)
    direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    rate = learning_rate(s.optimizer, s.training.steps, state.step)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    proposed = State(state.step + 1, params, opt_state, state.skipped)
    # A refused step leaves parameters and optimizer as they are; the next batch follows.
    refused = state._replace(step=state.step + 1, skipped=state.skipped + 1)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    state = jax.tree.map(functools.partial(jnp.where, finite), proposed, refused)
    metrics = {
        "loss": total,
        # Losses as `mlm_loss` and so on, accuracies under their own names.
        **{f"{k}_loss" if k in whole else k: safe_ratio(*x) for k, x in sums.items()},
        "gradient_norm": norm,
        "learning_rate": rate,
        "temperature": temperature,
        "skipped": state.skipped,
    }
    if "region_mask" in batch:
        # Pictures that can't be read count as absent; this shows how many there are.
        metrics["picture_share"] = batch["region_mask"].any(1).mean()
    return state, metrics


def gumbel_temperature(network: Network, step: jax.Array) -> jax.Array:
    """Of the choices of `hard` fusion: falls geometrically from the first step to the last."""
    fusion, steps = network.settings.model.fusion, network.settings.training.steps
    ratio = fusion.temperature_end / fusion.temperature_start
    return fusion.temperature_start * ratio ** (step / max(steps - 1, 1))


def micro_batches(batch: Batch, count: int, units: int) -> dict[str, jax.Array]:
    """[B, ...] -> [count, B / count, ...]: of `units` units m, m + count, ..., so no row moves."""

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(units // count, count, -1, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    return {name: split(x) for name, x in batch.items()}
