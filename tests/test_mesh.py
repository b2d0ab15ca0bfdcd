import dataclasses
import itertools
import math
import types

import jax
import numpy as np
import pytest

from k3m_jax.parallel import mesh as meshes
from k3m_jax.parallel.mesh import data_shards, make_mesh
from k3m_jax.parallel.placement import process_blocks
from k3m_jax.settings import Mesh, UserError


@pytest.mark.parametrize(
    ("sizes", "shape", "shards"),
    [
        (Mesh(), (8, 1, 1), 8),
        (Mesh(data=2, fsdp=-1), (2, 4, 1), 8),
        (Mesh(data=2, fsdp=2, tensor=2), (2, 2, 2), 4),
        (Mesh(data=1, fsdp=1, tensor=-1), (1, 1, 8), 1),
        (Mesh(data=3, fsdp=1, tensor=1), (3, 1, 1), 3),  # the machine's first three devices
    ],
)
def test_axes_and_shards(sizes, shape, shards):
    mesh = make_mesh(sizes)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert data_shards(mesh) == shards
    assert process_blocks(mesh) == ((0,), 1)


@pytest.mark.parametrize("sizes", [Mesh(-1, 3), Mesh(16), Mesh(0, 8), Mesh(-1, -1)])
def test_sizes_that_do_not_fit_name_the_axes(sizes):
    with pytest.raises(UserError, match=r"mesh\.data=.*mesh\.fsdp=.*mesh\.tensor="):
        make_mesh(sizes)


def fake_mesh(shape, processes):
    """Devices in mesh order, each of the process that `processes` names."""
    devices = np.empty(len(processes), object)
    devices[:] = [types.SimpleNamespace(process_index=process) for process in processes]
    return types.SimpleNamespace(
        devices=devices.reshape(shape), shape=dict(zip(meshes.AXES, shape, strict=True))
    )


PAIRS = [0, 0, 1, 1, 2, 2, 3, 3]
SQUARES = [0, 0, 1, 1, 0, 0, 1, 1]  # of a torus of 2 x 4


@pytest.mark.parametrize(
    ("shape", "processes", "blocks"),
    [
        ((4, 2, 1), PAIRS, [((0,), 4), ((1,), 4), ((2,), 4), ((3,), 4)]),
        ((2, 2, 2), PAIRS, [((0,), 4), ((1,), 4), ((2,), 4), ((3,), 4)]),
        ((2, 1, 4), PAIRS, [((0,), 2), ((0,), 2), ((1,), 2), ((1,), 2)]),  # a pair shares its rows
        ((1, 1, 8), PAIRS, [((0,), 1)] * 4),  # every process reads the whole batch
        ((2, 4, 1), SQUARES, [((0, 2), 4), ((1, 3), 4)]),
        ((6, 1, 1), [0, 1, 0, 1, 2, 2], [((0, 2), 6), ((1, 3), 6), ((2,), 3)]),
    ],
)
def test_processes_read_the_blocks_of_their_devices(monkeypatch, shape, processes, blocks):
    mesh = fake_mesh(shape, processes)
    for process, expected in enumerate(blocks):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert process_blocks(mesh) == expected


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax tells of a TPU."""

    slice_index: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"


def chips(sides, slices=1):
    """Slices of TPUs, four in a square for each process, in the order of their processes."""
    x, y, z = sides
    found = [
        Chip(s, ((s * z + k) * (y // 2) + j // 2) * (x // 2) + i // 2, (i, j, k))
        for s in range(slices)
        for k, j, i in itertools.product(range(z), range(y), range(x))
    ]
    return sorted(found, key=lambda chip: chip.process_index)


def of_chips(mesh, attribute):
    return np.vectorize(lambda chip: getattr(chip, attribute), otypes=[object])(mesh.devices)


@pytest.mark.parametrize(("sides", "fsdp"), [((16, 16, 1), 16), ((4, 4, 8), 8)])
@pytest.mark.parametrize("tensor", [1, 2])
def test_on_a_pod_every_row_is_read(monkeypatch, sides, fsdp, tensor):
    """By as many processes as hold it; and an axis is a line of the torus."""
    mesh = make_mesh(Mesh(data=-1, fsdp=fsdp, tensor=tensor), chips(sides))
    readers = np.zeros(data_shards(mesh), int)
    processes = math.prod(sides) // 4
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        blocks, count = process_blocks(mesh)
        assert len(blocks) * tensor * data_shards(mesh) // count == 4
        readers.reshape(count, -1)[list(blocks)] += 1
    assert (readers == 1).all()
    if tensor == 1:
        coords = np.array(of_chips(mesh, "coords")[:, :, 0].tolist())
        assert (np.count_nonzero(np.ptp(coords, axis=1), axis=-1) == 1).all()


@pytest.mark.parametrize(
    ("sizes", "axis"), [(Mesh(data=-1, fsdp=4), 0), (Mesh(data=1, fsdp=-1), 1)]
)
def test_slices_are_distinguished_by_one_axis(sizes, axis):
    mesh = make_mesh(sizes, chips((4, 4, 1), slices=2))
    of_slice = np.moveaxis(of_chips(mesh, "slice_index").astype(int), axis, 0)
    half = len(of_slice) // 2
    assert (of_slice[:half] == 0).all()
    assert (of_slice[half:] == 1).all()


def test_slices_that_no_axis_divides_are_reported():
    with pytest.raises(UserError, match=r"the 2 slices must divide mesh\.data or mesh\.fsdp"):
        make_mesh(Mesh(data=1, fsdp=1, tensor=-1), chips((4, 4, 1), slices=2))


def test_a_part_of_the_machine_is_for_one_process_alone(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="a mesh of 4 devices, but there are 8"):
        make_mesh(Mesh(data=4))
