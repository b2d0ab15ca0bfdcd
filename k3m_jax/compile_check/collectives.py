"""What a compiled program sends between devices, and which parameters it gathers."""

import dataclasses
import re
from typing import Any

import jax
from jax.sharding import Mesh

from k3m_jax.compile_check.hlo import Module, Site, trace_to_input
from k3m_jax.parallel.mesh import data_shards

# Bytes that each device sends, as a share of the whole array, in a group of n. An all-reduce is a
# reduce-scatter and an all-gather.
_SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
KINDS = tuple(_SENT)
_PARAMETERS = "state.params"  # jax's name for them among the inputs of a step


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation, over all its arrays.

    Attributes:
      kind: of `KINDS`.
      times: how often it runs in a step.
      group: number of devices that take part.
      bytes: of the whole arrays, over all devices of a group.
      gathered: parameters that it gathers, each with the share of the parameter that one run covers
        (of a stack of layers, one layer).
    """

    kind: str
    times: int
    group: int
    bytes: float
    gathered: dict[str, float]

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step."""
        return self.times * self.bytes * _SENT[self.kind](self.group)


def find_collectives(module: Module, devices: int) -> list[Collective]:
    """All collectives of a program for `devices` devices."""
    found, seen = [], set()
    for site in module.sites():
        kind = site.instruction.opcode.removesuffix("-start")
        if kind not in _SENT:
            continue
        # A TPU splits a collective over several kernels that compute meanwhile; all share one
        # channel.
        channel = site.instruction.attribute("channel_id")
        key = (channel, _kernel_level(site).computation.name)
        if channel and key in seen:
            continue
        seen.add(key)
        found.append(_collective(module, site, kind, devices))
    return [collective for collective in found if collective.group > 1]


def needed_by_fsdp(params: Any, mesh: Mesh, itemsize: int) -> float:
    """Bytes that each device must send for one micro-batch, however well it is compiled.

    Each parameter is gathered once for the forward and once for the backward pass; its gradient is
    scattered to its shards and summed over the data axis; all in numbers of `itemsize` bytes.

    Args:
      params: shapes with shardings, as `shardings.with_shardings` gives.
      mesh: of the shardings.
      itemsize: of the activations' dtype.
    """
    total = 0.0
    for leaf in jax.tree.leaves(params):
        axes = {axis for axis in leaf.sharding.spec if axis is not None}
        size = leaf.size * itemsize
        size /= mesh.shape["tensor"] if "tensor" in axes else 1
        if "fsdp" in axes:
            shards = mesh.shape["fsdp"]
            total += size * (2 * _SENT["all-gather"](shards) + _SENT["reduce-scatter"](shards))
            total += size / shards * _SENT["all-reduce"](mesh.shape["data"])
        else:
            total += size * _SENT["all-reduce"](data_shards(mesh))
    return total


def gathers_per_parameter(collectives: list[Collective]) -> dict[str, float]:
    """How often each parameter is gathered in a step, by its name."""
    times: dict[str, float] = {}
    for collective in collectives:
        for name, share in collective.gathered.items():
            times[name] = times.get(name, 0.0) + collective.times * share
    return times


def _collective(module: Module, site: Site, kind: str, devices: int) -> Collective:
    group = _group_size(site.instruction.attributes, devices)
    operands = site.operands()
    size = sum(array.bytes for operand in operands for array in operand.arrays)
    if kind == "all-gather":
        size *= group
    # On a TPU a reduce-scatter is a kernel of that name with an all-reduce inside.
    if kind == "all-reduce" and "all-reduce-scatter" in site.computation.name:
        kind = "reduce-scatter"
    gathered = {}
    for operand in operands:
        source = trace_to_input(module, site.at(operand))
        if source is not None and source.op_name.startswith(_PARAMETERS):
            whole = operand.arrays[0].size * (group if kind == "all-gather" else 1)
            gathered[source.op_name] = whole / (source.arrays[0].size * group)
    return Collective(kind, site.times, group, size, gathered)


def _kernel_level(site: Site) -> Site:
    while site.in_fusion:
        site = site.caller
    return site


def _group_size(attributes: str, devices: int) -> int:
    """Parses `{{0,1},{2,3}}`, `[2,4]<=[8]`, or `mesh['a'=2,'b'=4] {'b'}`."""
    if pairs := re.search(r"source_target_pairs=\{(\{[^}]*\})", attributes):
        return 2 if pairs else 1
    if named := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}", attributes
    ):
        sizes = dict(axis.split("=") for axis in named.group(1).split(","))
        size = 1
        for axis in named.group(2).split(","):
            size *= int(sizes[axis.strip()])
        return size
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota.group(1))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    return devices
