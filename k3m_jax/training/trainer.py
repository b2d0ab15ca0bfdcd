"""The jitted, sharded program of a run: initialisation and step on one mesh."""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from k3m_jax.data.input.batch import batch_spec
from k3m_jax.model.network import Network
from k3m_jax.parallel import shardings
from k3m_jax.parallel.mesh import data_shards, process_blocks
from k3m_jax.pretrained.weights_file import flat, nested
from k3m_jax.settings import UserError
from k3m_jax.training.optimizer import mark_imported
from k3m_jax.training.state import State, init_state
from k3m_jax.training.step import Metrics, train_step


class Trainer:
    """What runs on the devices, compiled once each.

    Attributes:
      network: the model.
      mesh: the devices.
      abstract_state: shape, dtype and sharding of every array of the state.
    """

    def __init__(self, network: Network, mesh: Mesh):
        """Raises UserError where a batch or a parameter does not fit the mesh."""
        _check_batches(network, mesh)
        self.network, self.mesh = network, mesh
        everywhere = shardings.replicated(mesh)
        # Jitted and in the mesh here too, so that what is traced for the shapes serves `_init`.
        initial = jax.jit(functools.partial(init_state, network))
        with shardings.use_mesh(mesh):
            boxed = jax.eval_shape(initial, jax.ShapeDtypeStruct((), np.uint32))
        self.abstract_state: State = shardings.abstract_tree(mesh, boxed)
        state_shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        self._init = jax.jit(
            lambda seed: shardings.unbox(initial(seed)),
            in_shardings=everywhere,
            out_shardings=state_shardings,
        )
        self._step = jax.jit(
            functools.partial(train_step, network),
            in_shardings=(everywhere, state_shardings, shardings.batch_sharding(mesh)),
            out_shardings=(state_shardings, everywhere),
            # Where NaNs are looked for, jax runs a failed step again, operation by operation: its
            # input must still be there.
            donate_argnums=() if network.settings.debug.nans else (1,),
        )

        # A step needs nothing from the host. Without jit, each operation brings its constants; and
        # where NaNs are looked for, jax looks on the host.
        debug = network.settings.debug
        self._guard = "allow" if debug.disable_jit or debug.nans else "disallow"

    @functools.cached_property
    def _seed(self) -> jax.Array:
        """On the devices; those of a topology, which only compiles, could not hold it."""
        seed = np.asarray(self.network.settings.seed, np.uint32)
        return shardings.put_on_all_hosts(shardings.replicated(self.mesh), seed)

    def compile(self, options: Mapping[str, Any] | None = None) -> jax.stages.Compiled:
        """The step as `step` runs it; on devices of a topology it can be looked at, but not run."""
        settings, rows = self.network.settings, shardings.batch_sharding(self.mesh)
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for name, (shape, dtype) in batch_spec(settings, settings.training.batch).items()
        }
        with shardings.use_mesh(self.mesh):
            seed = jax.ShapeDtypeStruct((), np.uint32)
            return self._step.lower(seed, self.abstract_state, batch).compile(dict(options or {}))

    def init(self, weights: Mapping[str, np.ndarray | jax.Array] = MappingProxyType({})) -> State:
        """The state before the first step; the same for every mesh.

        Args:
          weights: of the parameters that do not begin at random, by name, in their own shapes;
            every process has all of them, or they lie on this mesh.
        """
        with shardings.use_mesh(self.mesh):
            state = self._init(self._seed)
        params = flat(state.params)
        for name, array in weights.items():
            params[name] = shardings.put_on_all_hosts(params[name].sharding, array)
        return state._replace(
            params=nested(params), opt_state=mark_imported(state.opt_state, weights)
        )

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process' rows -> the batch on the devices."""
        return shardings.place_batch(self.mesh, batch)

    def step(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        """Dispatches one step and returns before it is computed; `state` is used up."""
        seed = self._seed  # placed before the guard, also where no `init` came first
        with shardings.use_mesh(self.mesh), jax.transfer_guard(self._guard):
            return self._step(seed, state, batch)


def _check_batches(network: Network, mesh: Mesh) -> None:
    """Of an evaluation too: its first is hours away, and comes before that step's checkpoint."""
    settings = network.settings
    training, group, asked = settings.training, settings.objectives.group, settings.evaluation.batch
    shards = data_shards(mesh)
    if training.batch % (shards * training.accumulation * group):
        raise UserError(
            f"training.batch {training.batch} is not a multiple of mesh.data x mesh.fsdp {shards} "
            f"x training.accumulation {training.accumulation} x objectives.group {group}"
        )
    _, blocks = process_blocks(mesh)
    if asked % (unit := math.lcm(shards, blocks * group)):
        raise UserError(
            f"evaluation.batch {asked} is not a multiple of {unit}, that is of mesh.data x "
            f"mesh.fsdp {shards} and of objectives.group {group} x {blocks} blocks that processes "
            "read"
        )
