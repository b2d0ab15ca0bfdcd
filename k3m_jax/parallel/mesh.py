"""Devices as a mesh of three axes: `data`, `fsdp` and `tensor`.

Rows of a batch are spread over data x fsdp, parameters over fsdp and tensor (`parallel/rules.py`).
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from k3m_jax import settings
from k3m_jax.settings import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: settings.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `sizes` over `devices` (all of them by default); an axis of -1 takes the rest.

    A smaller mesh than the machine takes its first devices, in a run of one process alone: with
    several, each must have its part.

    Raises:
      UserError: the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = [sizes.data, sizes.fsdp, sizes.tensor]
    wanted = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{wanted}: a size is at least 1, or -1 for the devices that are left")
    if -1 in shape:
        fixed = math.prod(size for size in shape if size != -1)
        if len(devices) % fixed:
            raise UserError(f"{wanted}: {fixed} does not divide the {len(devices)} devices")
        shape[shape.index(-1)] = len(devices) // fixed
    count = math.prod(shape)
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        raise UserError(f"{wanted}: a mesh of {count} devices, but there are {len(devices)}")
    # Auto: flax's logical constraints are hints to the compiler, not types of arrays.
    return jax.make_mesh(
        tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count]
    )


def data_shards(mesh: Mesh) -> int:
    """How many contiguous blocks of rows a batch is cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def process_block(mesh: Mesh) -> tuple[int, int]:
    """Which rows this process reads: (index, count), block `index` of `count` equal blocks.

    Processes whose devices share data shards through the tensor axis read the same block.

    Raises:
      UserError: the process' devices hold no such block of rows.
    """
    fsdp = mesh.shape["fsdp"]
    held = sorted(
        {
            position[0] * fsdp + position[1]
            for position, device in np.ndenumerate(mesh.devices)
            if device.process_index == jax.process_index()
        }
    )
    size, first = len(held), held[0] if held else 0
    if not held or held[-1] - first + 1 != size or data_shards(mesh) % size or first % size:
        raise UserError(
            f"mesh {dict(mesh.shape)}: the rows of process {jax.process_index()} are not one block "
            "of the batch; let mesh.fsdp x mesh.tensor be a multiple or a divisor of the devices "
            "of one process"
        )
    return first // size, data_shards(mesh) // size
