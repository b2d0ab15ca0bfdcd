"""The jitted, sharded program of a run: initialisation and step on one mesh."""

import functools
import math
from collections.abc import Mapping

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.model.network import Network, flat, nested
from k3m_jax.parallel import shardings
from k3m_jax.parallel.mesh import data_shards
from k3m_jax.parallel.placement import place_batch, process_blocks, put_on_all_hosts
from k3m_jax.settings.schema import check_multiple
from k3m_jax.training.optimizer import make_optimizer, mark_imported
from k3m_jax.training.step import Metrics, State, init_state, train_step


class Trainer:
    """What runs on the devices, compiled once each.

    `abstract_state` has the shape, dtype and sharding of every array of the state. Raises UserError
    where a batch or a parameter does not fit the mesh.
    """

    def __init__(self, network: Network, mesh: Mesh):
        _check_batches(network, mesh)
        self.network, self.mesh = network, mesh
        debug, everywhere = network.settings.debug, shardings.replicated(mesh)
        # Jitted and in the mesh here too, so that what is traced for the shapes serves `_init`.
        initial = jax.jit(functools.partial(init_state, network))
        with jax.set_mesh(mesh):
            state = jax.eval_shape(initial, jax.ShapeDtypeStruct((), np.uint32))
        params = shardings.param_shardings(mesh, state.params, network.param_axes())
        opt_state = optax.tree.map_params(  # scalars are on every device
            make_optimizer(network.settings.optimizer),
            lambda array, sharding: sharding if array.ndim else everywhere,
            state.opt_state,
            params,
            transform_non_params=lambda _: everywhere,
        )
        placement = State(everywhere, params, opt_state, everywhere)
        self.abstract_state: State = shardings.with_shardings(state, placement)
        self._init = jax.jit(initial, in_shardings=everywhere, out_shardings=placement)
        self._step = jax.jit(
            functools.partial(train_step, network),
            in_shardings=(everywhere, placement, shardings.batch_sharding(mesh)),
            out_shardings=(placement, everywhere),
            # With debug.nans jax repeats a failed step operation by operation: its input must
            # still be there.
            donate_argnums=() if debug.nans else (1,),
        )
        # A step needs nothing of the host, but without jit constants, with debug.nans a look there.
        self._guard = "allow" if debug.disable_jit or debug.nans else "disallow"

    @functools.cached_property
    def _seed(self) -> jax.Array:
        """On the devices; those of a topology, which only compiles, could not hold it."""
        seed = np.asarray(self.network.settings.seed, np.uint32)
        return put_on_all_hosts(shardings.replicated(self.mesh), seed)

    def lower(self) -> jax.stages.Lowered:
        """The step as `step` runs it; for devices of a topology, to be inspected but not run."""
        settings, rows = self.network.settings, shardings.batch_sharding(self.mesh)
        spec = BatchLayout.of(settings).spec(settings.training.batch)
        batch = {name: jax.ShapeDtypeStruct(*x, sharding=rows) for name, x in spec.items()}
        with jax.set_mesh(self.mesh):
            seed = jax.ShapeDtypeStruct((), np.uint32)
            return self._step.lower(seed, self.abstract_state, batch)

    def init(self, weights: Mapping[str, np.ndarray | jax.Array] | None = None) -> State:
        """The state before the first step; the same for every mesh.

        `weights` begin not at random, by name: each process has all, or they lie on this mesh.
        """
        with jax.set_mesh(self.mesh):
            state = self._init(self._seed)
        if not weights:
            return state
        params = flat(state.params)
        for name, array in weights.items():
            params[name] = put_on_all_hosts(params[name].sharding, array)
        opt_state = mark_imported(state.opt_state, weights)
        return state._replace(params=nested(params), opt_state=opt_state)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process' rows -> the batch on the devices."""
        return place_batch(self.mesh, batch)

    def step(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        """Dispatches one step and returns before it is computed; `state` is donated."""
        seed = self._seed  # placed before the guard, also where no `init` came first
        with jax.set_mesh(self.mesh), jax.transfer_guard(self._guard):
            return self._step(seed, state, batch)


def _check_batches(network: Network, mesh: Mesh) -> None:
    """Evaluation too: its first batch is hours away, and comes before that step's checkpoint."""
    settings, shards, (_, blocks) = network.settings, data_shards(mesh), process_blocks(mesh)
    accumulation, group = settings.training.accumulation, settings.objectives.group
    unit = BatchLayout.of(settings).unit
    mesh_keys = f"mesh.data x mesh.fsdp {shards}"
    key = "objectives.group" if unit == group else "packing.products"
    of = f"{mesh_keys} x training.accumulation {accumulation} x {key} {unit}:"
    rows = shards * accumulation * unit
    check_multiple("training.batch", settings.training.batch, of, rows)
    of = f"{mesh_keys} and of objectives.group {group} x {blocks} blocks that processes read:"
    rows = math.lcm(shards, blocks * group)
    check_multiple("evaluation.batch", settings.evaluation.batch, of, rows)
