"""Shardings made from the logical names that parameters carry.

A *boxed* tree is what `Network.init_params` returns: each array in a flax box with the names of its
dimensions. An optimizer's state made from boxed parameters is boxed likewise, so that it always
follows them.
"""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import RulesFallback
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from k3m_jax.parallel.mesh import data_shards, process_blocks
from k3m_jax.parallel.rules import BATCH_AXES, RULES
from k3m_jax.settings import UserError

# What a mesh with an fsdp axis may hold on every device: this share of the bytes, or so few of them
# that it does not matter (a tiny model is largely biases).
MAX_REPLICATED = 0.02
NEGLIGIBLE_BYTES = 1 << 20

_FLAX_RULES = tuple((rule.logical, rule.mesh) for rule in RULES)
_BY_NAME = {rule.logical: rule for rule in RULES}


def use_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Where jitted functions that run the network are traced and called: `constrain` sees `mesh`.

    The rules are not given to flax as a context: it would then constrain parameters where it makes
    them, in shapes that are not yet those of their names.
    """
    return jax.set_mesh(mesh)


def constrain(x: jax.Array, *names: str) -> jax.Array:
    """An activation whose dimensions are called `names`, split as the table says.

    Outside `use_mesh` it is left alone. Raises ValueError for a name that the table lacks.
    """
    return nn.with_logical_constraint(
        x, names, rules=_FLAX_RULES, fallback=RulesFallback.RAISE_ERROR
    )


def unbox(tree: Any) -> Any:
    """A boxed tree as a tree of plain arrays."""
    return jax.tree.map(lambda leaf: leaf.value if _is_box(leaf) else leaf, tree, is_leaf=_is_box)


def tree_shardings(mesh: Mesh, boxed: Any) -> Any:
    """The sharding of each array of `boxed`, as a tree without boxes.

    Args:
      mesh: of `make_mesh`.
      boxed: abstract or real; scalars need no box and are on every device.

    Raises:
      UserError: an array without names, a name that `RULES` lacks, a dimension that the mesh does
        not divide, or too many bytes replicated on a mesh with `fsdp` > 1.
    """
    shardings = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _leaf_sharding(mesh, _name(path), leaf), boxed, is_leaf=_is_box
    )
    _check_replication(mesh, unbox(boxed), shardings)
    return shardings


def abstract_tree(mesh: Mesh, boxed: Any) -> Any:
    """Shape, dtype and sharding of each array of `boxed`, without boxes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unbox(boxed),
        tree_shardings(mesh, boxed),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows in contiguous blocks over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Rows of this process' blocks (`process_blocks`), in order -> arrays of the whole batch.

    Raises:
      UserError: the rows can't be cut into equal blocks.
    """
    sharding, shards = batch_sharding(mesh), data_shards(mesh)
    blocks, count = process_blocks(mesh)
    block_rows = len(next(iter(batch.values()))) // len(blocks)
    rows = block_rows * count
    if rows % shards:  # of a run's own batches its program has said so before
        raise UserError(
            f"a batch of {rows} rows can't be cut into {shards} equal blocks: change "
            "evaluation.batch, or mesh.data x mesh.fsdp"
        )
    first = {block: place * block_rows for place, block in enumerate(blocks)}

    def part(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """What one device holds: it lies within a block."""
        start, stop, _ = index[0].indices(rows)
        local = first[start // block_rows] + start % block_rows
        return array[local : local + stop - start]

    return {
        name: jax.make_array_from_callback(
            (rows, *array.shape[1:]), sharding, functools.partial(part, array)
        )
        for name, array in batch.items()
    }


def put_on_all_hosts(sharding: NamedSharding, array: np.ndarray | jax.Array) -> jax.Array:
    """An array that all processes have, put where `sharding` says: no process asks the others.

    One that lies on the devices already is moved only where it lies otherwise.
    """
    if isinstance(array, jax.Array):
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaf_sharding(mesh: Mesh, name: str, leaf: Any) -> NamedSharding:
    if not _is_box(leaf):
        if leaf.ndim:
            raise UserError(f"{name} {leaf.shape} names no logical axes: box its initialiser")
        return replicated(mesh)
    for logical in leaf.names:
        if logical not in _BY_NAME:
            raise UserError(f"{name}: the axis {logical!r} is not in k3m_jax/parallel/rules.py")
    spec = nn.logical_to_mesh_axes(leaf.names, _FLAX_RULES)
    for size, logical, axis in zip(leaf.value.shape, leaf.names, spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"{name}: its axis {logical!r} of size {size} is not a multiple of mesh.{axis} "
                f"{mesh.shape[axis]}; change mesh.{axis} or {_BY_NAME[logical].setting}"
            )
    return NamedSharding(mesh, spec)


def _check_replication(mesh: Mesh, tree: Any, shardings: Any) -> None:
    """The tensor axis promises no memory, so that a mesh of it alone is not checked."""
    if mesh.shape["fsdp"] == 1:
        return
    whole, total = {}, 0
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings), strict=True
    ):
        size = leaf.size * leaf.dtype.itemsize
        total += size
        if sharding.is_fully_replicated:
            whole[_name(path)] = size
    if sum(whole.values()) > max(MAX_REPLICATED * total, NEGLIGIBLE_BYTES):
        largest = max(whole, key=whole.get)
        raise UserError(
            f"{sum(whole.values()) / total:.1%} of the parameters' bytes lie on every device "
            f"(at most {MAX_REPLICATED:.0%} may), {largest} the largest: "
            "set mesh.fsdp to 1 or give its axes a rule in k3m_jax/parallel/rules.py"
        )
