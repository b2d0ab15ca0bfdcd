import types

import jax
import numpy as np
import pytest

from k3m_jax.parallel import mesh as meshes
from k3m_jax.parallel.mesh import data_shards, make_mesh, process_block
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
    assert process_block(mesh) == (0, 1)


@pytest.mark.parametrize("sizes", [Mesh(data=-1, fsdp=3), Mesh(data=16), Mesh(data=0, fsdp=8)])
def test_sizes_that_do_not_fit_name_the_axes(sizes):
    with pytest.raises(UserError, match=r"mesh\.data=.*mesh\.fsdp=.*mesh\.tensor="):
        make_mesh(sizes)


def fake_mesh(shape, per_process):
    """Devices in mesh order, `per_process` consecutive ones in each process."""
    count = int(np.prod(shape))
    devices = np.empty(count, object)
    devices[:] = [types.SimpleNamespace(process_index=i // per_process) for i in range(count)]
    return types.SimpleNamespace(
        devices=devices.reshape(shape), shape=dict(zip(meshes.AXES, shape, strict=True))
    )


@pytest.mark.parametrize(
    ("shape", "per_process", "blocks"),
    [
        ((4, 2, 1), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 2, 2), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 1, 4), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # a pair shares its rows
        ((1, 1, 8), 2, [(0, 1)] * 4),  # every process reads the whole batch
    ],
)
def test_processes_read_contiguous_blocks(monkeypatch, shape, per_process, blocks):
    mesh = fake_mesh(shape, per_process)
    for process, block in enumerate(blocks):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert process_block(mesh) == block


def test_a_process_without_a_block_is_told(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    mesh = fake_mesh((6, 1, 1), 2)
    mesh.devices = mesh.devices[[0, 2, 1, 3, 4, 5]]  # process 1 has the rows of shards 1 and 3
    with pytest.raises(UserError, match="process 1"):
        process_block(mesh)


def test_a_part_of_the_machine_is_for_one_process_alone(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="a mesh of 4 devices, but there are 8"):
        make_mesh(Mesh(data=4))
