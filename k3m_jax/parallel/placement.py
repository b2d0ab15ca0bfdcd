"""Which rows of a batch a process reads, and how arrays of its host get onto the mesh."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from k3m_jax.parallel.mesh import data_shards
from k3m_jax.parallel.shardings import batch_sharding
from k3m_jax.settings import UserError


def process_blocks(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Which rows this process reads: (blocks, count), those blocks of `count` equal ones.

    The fewest blocks possible. On a torus the devices of a process are a square, whose rows lie
    apart in the batch. Processes whose devices share rows through the tensor axis read the same.
    """
    shards, fsdp = data_shards(mesh), mesh.shape["fsdp"]
    held = {
        position[0] * fsdp + position[1]
        for position, device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
    }
    for count in range(1, shards + 1):
        size, rest = divmod(shards, count)
        blocks = sorted({shard // size for shard in held})
        if not rest and len(blocks) * size == len(held):
            break
    return tuple(blocks), count


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Rows of this process' blocks (`process_blocks`), in order -> arrays of the whole batch.

    Raises UserError if the rows can't be cut into equal blocks.
    """
    sharding, shards = batch_sharding(mesh), data_shards(mesh)
    blocks, count = process_blocks(mesh)

    def placed(array: np.ndarray) -> jax.Array:
        block_rows = len(array) // len(blocks)
        rows = block_rows * count
        if rows % shards:  # `Trainer` has checked a run's own batches before
            raise UserError(
                f"a batch of {rows} rows can't be cut into {shards} equal blocks: change "
                "evaluation.batch, or mesh.data x mesh.fsdp"
            )

        def part(index: tuple[slice, ...]) -> np.ndarray:
            """What one device holds: it lies within a block."""
            start, stop, _ = index[0].indices(rows)
            block, offset = divmod(start, block_rows)
            local = blocks.index(block) * block_rows + offset
            return array[local : local + stop - start]

        return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, part)

    return {name: placed(array) for name, array in batch.items()}


def put_on_all_hosts(sharding: NamedSharding, array: np.ndarray | jax.Array) -> jax.Array:
    """An array that all processes have, put where `sharding` says, without communication.

    An array on the devices is moved only where it lies otherwise.
    """
    if isinstance(array, jax.Array):
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
