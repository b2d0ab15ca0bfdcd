"""One step of a run, as a pure function of arrays."""

from collections.abc import Container, Mapping

import jax
import jax.numpy as jnp
import optax

from k3m_jax.model.network import Network
from k3m_jax.objectives.objective import objective_of
from k3m_jax.objectives.sums import Sum, safe_ratio
from k3m_jax.training.optimizer import learning_rate, make_optimizer
from k3m_jax.training.state import State

Metrics = dict[str, jax.Array]


def gumbel_temperature(network: Network, step: jax.Array) -> jax.Array:
    """Of the choices of `hard` fusion: falls geometrically from the first step to the last."""
    fusion, steps = network.settings.model.fusion, network.settings.training.steps
    ratio = fusion.temperature_end / fusion.temperature_start
    return fusion.temperature_start * ratio ** (step / max(steps - 1, 1))


def micro_batches(batch: Mapping[str, jax.Array], count: int, group: int) -> dict[str, jax.Array]:
    """[B, ...] -> [count, B / count, ...]; micro-batch m takes groups m, m + count, ...

    So each device, which holds a contiguous block of rows, has a part of every micro-batch, no row
    moves between devices, and groups stay whole.
    """

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, count, group, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    return {name: split(x) for name, x in batch.items()}


def train_step(
    network: Network, seed: jax.Array, state: State, batch: Mapping[str, jax.Array]
) -> tuple[State, Metrics]:
    """The next state, and the losses and rates of this step as float32 scalars.

    A step whose loss or gradient is not finite is refused: parameters and optimizer stay as they
    are, `skipped` counts it, and the run goes on with the next batch.

    Args:
      network: its settings say all that is not in the arrays.
      seed: uint32, of the run. An array: one program serves repetitions of a run.
      state: unboxed.
      batch: as `data.batch.batch_spec` says, of all devices together.
    """
    settings = network.settings
    objectives, count = settings.objectives, settings.training.accumulation
    objective = objective_of(settings.task)
    whole = objective.weights(batch)  # a micro-batch's own weights would average averages
    temperature = gumbel_temperature(network, state.step)
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss(params, micro, key):
        noise, negatives = jax.random.split(key)
        outputs = network.apply(params, micro, temperature=temperature, key=noise)
        sums = objective.sums(outputs, micro, objectives, negatives)
        return objective.total(sums, whole, objectives), sums

    differentiate = jax.value_and_grad(loss, has_aux=True)
    if count == 1:
        (_, sums), gradient = differentiate(state.params, batch, step_key)
    else:

        def accumulate(gradient, micro_and_key):
            (_, sums), part = differentiate(state.params, *micro_and_key)
            return jax.tree.map(jnp.add, gradient, part), sums

        micros = micro_batches(batch, count, objectives.group), jax.random.split(step_key, count)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        gradient, sums = jax.lax.scan(accumulate, zeros, micros)
        sums = jax.tree.map(lambda x: x.sum(0), sums)

    total = objective.total(sums, whole, objectives)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    direction, opt_state = make_optimizer(settings.optimizer).update(
        gradient, state.opt_state, state.params
    )
    rate = learning_rate(settings.optimizer, settings.training.steps, state.step)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    skipped = state.skipped + jnp.where(finite, 0, 1)
    metrics = {
        "loss": total,
        **_means(sums, whole),
        "gradient_norm": norm,
        "learning_rate": rate,
        "temperature": temperature,
        "skipped": skipped,
    }
    if "region_mask" in batch:
        # Pictures that can't be read count as absent; this tells if many are.
        metrics["picture_share"] = batch["region_mask"].any(1).mean()
    return State(state.step + 1, params, opt_state, skipped), metrics


def _means(sums: Mapping[str, Sum], losses: Container[str]) -> Metrics:
    """Losses as `mlm_loss` and so on, rates of right answers under their own names."""
    return {
        f"{name}_loss" if name in losses else name: safe_ratio(*value)
        for name, value in sums.items()
    }
