"""Devices as a mesh: a batch is split over `data` x `fsdp`, parameters over `fsdp` and `tensor`."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from k3m_jax import settings
from k3m_jax.settings import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: settings.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `sizes` over `devices` (all of them by default); an axis of -1 takes the rest.

    A mesh smaller than the machine takes its first devices, in a run of one process only: with
    several, each must have its part.

    Neighbours on an axis are neighbours in the machine. Several slices (of TPUs, or GPU hosts with
    a switch each) split the data axis, or, where their number does not divide it, the fsdp axis:
    all else stays within a slice. Raises UserError for sizes that do not fit.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = [sizes.data, sizes.fsdp, sizes.tensor]
    wanted = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise UserError(f"{wanted}: a size is at least 1, and one may be -1, for what is left")
    if -1 in shape:
        fixed = math.prod(size for size in shape if size != -1)
        if len(devices) % fixed:
            raise UserError(f"{wanted}: {fixed} does not divide the {len(devices)} devices")
        shape[shape.index(-1)] = len(devices) // fixed
    count = math.prod(shape)
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        raise UserError(f"{wanted}: a mesh of {count} devices, but there are {len(devices)}")

    options = {"devices": devices[:count], "allow_split_physical_axes": True}
    slices = len({getattr(device, "slice_index", None) for device in devices[:count]})
    across = next((axis for axis in (0, 1) if shape[axis] % slices == 0), None)
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(shape, **options)
    elif across is None:
        raise UserError(f"{wanted}: the {slices} slices must divide mesh.data or mesh.fsdp")
    else:
        outer = [slices if axis == across else 1 for axis in range(len(AXES))]
        shape[across] //= slices
        arranged = mesh_utils.create_hybrid_device_mesh(shape, outer, **options)
    # Auto: constraints on activations are hints to the compiler, not types of arrays.
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def data_shards(mesh: Mesh) -> int:
    """How many contiguous blocks of rows a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
