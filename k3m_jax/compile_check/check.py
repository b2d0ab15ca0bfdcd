"""Cost of a training step on devices that this machine does not have, by their own compiler."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from k3m_jax.compile_check.collectives import (
    KINDS,
    Collective,
    find_collectives,
    gathers_per_parameter,
    needed_by_fsdp,
)
from k3m_jax.compile_check.hlo import Module
from k3m_jax.compile_check.kernels import matrix_flops, memory_bytes
from k3m_jax.compile_check.topologies import Topology
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import data_shards, make_mesh
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.flops import training_flops
from k3m_jax.training.trainer import Trainer

GPU_SHARE = 0.75  # share of a GPU's memory that jax takes if debug.memory_fraction is 0
GIB = 2**30


class DoesNotFitError(UserError):
    """The step needs more memory than a device has."""


class Traffic(NamedTuple):
    """Collectives of one kind in one step of one device."""

    times: int
    bytes: float  # of the whole arrays
    sent: float  # by each device


@dataclasses.dataclass(frozen=True)
class Check:
    """Figures of one compiled step; bytes, FLOPs and seconds are per device."""

    topology: str
    compiler: str
    jax: str
    mesh: dict[str, int]
    batch: int
    rows_per_device: float
    accumulation: int
    remat: bool
    unroll: bool
    vocabulary: int
    classes: int
    parameters: int
    argument_bytes: int
    temporary_bytes: int
    total_bytes: int
    memory_bytes: float | None
    flops: float
    model_flops: float
    moved_bytes: float
    collectives: dict[str, Traffic]
    sent_bytes: float
    fsdp_bytes: float
    gathered_again: dict[str, float]
    compute_seconds: float | None
    memory_seconds: float | None
    interconnect_seconds: float | None
    chip_source: str

    @property
    def bound(self) -> str | None:
        """The slowest of compute, memory and interconnect; None for a CPU."""
        if self.compute_seconds is None:
            return None
        return max(("compute", "memory", "interconnect"), key=lambda n: self.seconds(n))

    def seconds(self, part: str) -> float:
        """Seconds of "compute", "memory" or "interconnect"."""
        return getattr(self, f"{part}_seconds")

    @property
    def step_seconds(self) -> float | None:
        """A lower bound: as if all work of a device overlapped."""
        return self.seconds(self.bound) if self.bound else None

    @property
    def items_per_second(self) -> float | None:
        """Upper bound for all devices together."""
        return self.batch / self.step_seconds if self.bound else None

    @property
    def mfu(self) -> float | None:
        """Upper bound of the model's own FLOPs as a share of the devices' peak."""
        if not self.bound:
            return None
        return self.compute_seconds * self.model_flops / self.flops / self.step_seconds

    def json(self) -> dict[str, Any]:
        """Everything, for a file."""
        derived = ("bound", "step_seconds", "items_per_second", "mfu")
        return {
            **dataclasses.asdict(self),
            "collectives": {kind: traffic._asdict() for kind, traffic in self.collectives.items()},
            **{name: getattr(self, name) for name in derived},
        }


def check(settings: Settings, topology: Topology) -> Check:
    """Compiles the step of `settings` for `topology` and extracts its cost.

    Args:
      settings: resolved.
      topology: of `open_topology`.

    Raises:
      DoesNotFitError: a device's memory is too small; the message names settings that would help.
      UserError: the batch or the parameters do not fit the mesh.
    """
    program = Trainer(Network(settings), make_mesh(settings.mesh, topology.devices))
    compiled = _compile(program, topology)
    module = Module.parse(compiled.as_text())
    devices = program.mesh.size
    collectives = find_collectives(module, devices)
    chip, flops, moved = topology.chip, matrix_flops(module), memory_bytes(module)
    sent = sum(collective.sent for collective in collectives)
    stats, training = compiled.memory_analysis(), settings.training
    params = program.abstract_state.params
    itemsize = jnp.dtype(settings.model.dtype).itemsize
    passes = 2 * training.accumulation  # each micro-batch has a forward and a backward pass
    gathers = gathers_per_parameter(collectives)
    return Check(
        topology=topology.name,
        compiler=topology.compiler,
        jax=jax.__version__,
        mesh=dict(program.mesh.shape),
        batch=training.batch,
        rows_per_device=training.batch / devices,
        accumulation=training.accumulation,
        remat=settings.model.remat,
        unroll=settings.model.unroll,
        vocabulary=settings.model.vocabulary,
        classes=settings.image.classes,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        argument_bytes=stats.argument_size_in_bytes,
        temporary_bytes=stats.temp_size_in_bytes,
        total_bytes=_total(stats),
        memory_bytes=_available(settings, topology),
        flops=flops,
        model_flops=training_flops(settings) * training.batch / devices,
        moved_bytes=moved,
        collectives=_by_kind(collectives),
        sent_bytes=sent,
        fsdp_bytes=needed_by_fsdp(params, program.mesh, itemsize) * training.accumulation,
        gathered_again={name: n for name, n in gathers.items() if n > passes + 0.01},
        compute_seconds=chip and flops / chip.flops,
        memory_seconds=chip and moved / chip.bandwidth,
        interconnect_seconds=chip and sent / chip.interconnect,
        chip_source=chip.source if chip else "",
    )


def find_batch(settings: Settings, topology: Topology) -> Check:
    """The check of `settings` with the largest `training.batch` that fits, by bisection.

    Batches are multiples of mesh.data x mesh.fsdp x accumulation x group, which keeps groups whole.
    Compiling takes minutes, so the memory of one batch predicts the next batch to try.

    Raises:
      DoesNotFitError: not even the smallest batch fits.
      UserError: the compiler does not report whether a step fits, like the CPU's.
    """
    available = _available(settings, topology)
    if available is None:
        raise UserError(
            f"--find_batch: the {topology.compiler} compiler does not report what fits a device"
        )
    shards = data_shards(make_mesh(settings.mesh, topology.devices))
    unit = shards * settings.training.accumulation * settings.objectives.group

    def with_units(count: int) -> Settings:
        training = dataclasses.replace(settings.training, batch=count * unit)
        return dataclasses.replace(settings, training=training)

    low, high, count = 0, math.inf, max(1, settings.training.batch // unit)
    while high - low > 1:
        try:
            largest = check(with_units(count), topology)
        except DoesNotFitError:
            if count == 1:
                raise
            high = count
            count = max(1, (low + high) // 2)
        else:
            low = count
            count = min(high - 1, max(low + 1, int(low * available / largest.total_bytes)))
    return largest


def _compile(program: Trainer, topology: Topology) -> jax.stages.Compiled:
    settings = program.network.settings
    try:
        compiled = program.lower().compile(dict(topology.options))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise DoesNotFitError(
            f"{reason.strip().rstrip('.')}; {_advice(program, topology)}"
        ) from error
    available = _available(settings, topology)
    needed = _total(compiled.memory_analysis())
    if available is not None and needed > available:
        raise DoesNotFitError(
            f"the step needs {needed / GIB:.1f} GiB of each device's {available / GIB:.1f} GiB; "
            + _advice(program, topology)
        )
    return compiled


def _total(stats: Any) -> int:
    """Bytes alive at the peak: the state is donated, so that the new one replaces it."""
    kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + stats.temp_size_in_bytes + kept


def _available(settings: Settings, topology: Topology) -> float | None:
    """Bytes of a device that a run may use; None if its own compiler is not installed."""
    if topology.compiler == "cpu" or topology.chip is None:
        return None
    share = settings.debug.memory_fraction or GPU_SHARE if topology.compiler == "cuda" else 1.0
    return share * topology.chip.memory


def _advice(program: Trainer, topology: Topology) -> str:
    """Settings that would help, the cheapest first."""
    settings, mesh = program.network.settings, program.mesh
    state = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(program.abstract_state)
    )
    hints = []
    if state > topology.chip.memory / 4 and mesh.shape["fsdp"] * mesh.shape["tensor"] < mesh.size:
        hints.append(
            f"raise mesh.fsdp, {mesh.shape['fsdp']} now (the state alone is {state / GIB:.1f} GiB)"
        )
    if topology.compiler == "cuda" and not settings.debug.memory_fraction:
        hints.append(f"set debug.memory_fraction above jax's {GPU_SHARE:g}")
    if topology.compiler == "cuda" and not settings.model.unroll:
        hints.append("set model.unroll=true")
    if not settings.model.remat:
        hints.append("set model.remat=true")
    rows = settings.training.batch // data_shards(mesh) // settings.objectives.group
    if rows > settings.training.accumulation:
        hints.append(f"raise training.accumulation, {settings.training.accumulation} now")
    hints.append(f"lower training.batch, {settings.training.batch} now")
    return "to make it fit, " + ", or ".join(hints)


def _by_kind(collectives: list[Collective]) -> dict[str, Traffic]:
    return {
        kind: Traffic(
            sum(c.times for c in chosen),
            sum(c.times * c.bytes for c in chosen),
            sum(c.sent for c in chosen),
        )
        for kind in KINDS
        if (chosen := [c for c in collectives if c.kind == kind])
    }
