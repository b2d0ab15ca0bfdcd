"""The one table of how logical axes are split over the mesh, and shardings made from it.

Parameters and activations name their dimensions where they are made (`model/`); which devices hold
which part of them is decided here and nowhere else. An unknown name is an error, so that a renamed
axis can't silently be replicated.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from k3m_jax.settings import UserError

BATCH_AXES = ("data", "fsdp")

# Mesh axes by logical name, and the setting that gives the dimension its size. Where two dimensions
# of one array want the same mesh axis, the upper line gets it.
RULES = {
    # Rows of a batch: each device of the data and fsdp axes computes its own.
    "batch": (BATCH_AXES, "training.batch"),
    # Widths of the streams: split where parameters rest, gathered layer by layer to compute.
    "embed": ("fsdp", "model.text.width"),
    "image_embed": ("fsdp", "model.image.width"),
    # What a tensor-parallel layer computes in parts.
    "heads": ("tensor", "the heads of model.text, model.image and model.interactor"),
    "mlp": ("tensor", "the mlp sizes of model.text, model.image and model.interactor"),
    "vocab": ("tensor", "the tokenizer's vocabulary"),
    "structure_heads": ("tensor", "model.structure.heads"),
}
# Whole on every device: small, or never the only dimension of a large array.
WHOLE = {
    *("layers", "kv"),  # of a scanned stack, whose every step needs a layer; within a head
    *("norm", "width"),  # biases and scales; activations and outputs of square maps
    *("length", "positions", "types"),  # of texts
    *("features", "box", "classes"),  # of regions
    *("streams", "scores", "parts"),  # of fusion and structure aggregation
}
# What a mesh with an fsdp axis may hold on every device: this share of the bytes, or few enough
# bytes not to matter (a tiny model is largely biases).
MAX_REPLICATED = 0.02
NEGLIGIBLE_BYTES = 1 << 20


def partition_spec(names: tuple[str, ...]) -> PartitionSpec:
    """The mesh axes of an array whose dimensions have the logical `names`.

    Raises ValueError for a name that the tables lack.
    """
    if unknown := [name for name in names if name not in WHOLE and name not in RULES]:
        raise ValueError(f"the axis {unknown[0]!r} is not in RULES of {__name__}")
    spec, taken = dict.fromkeys(names), set()
    for name, (mesh_axes, _) in RULES.items():
        axes = {mesh_axes} if isinstance(mesh_axes, str) else set(mesh_axes)
        if name in spec and not axes & taken:
            spec[name] = mesh_axes
            taken |= axes
    return PartitionSpec(*(spec[name] for name in names))


def constrain(x: jax.Array, *names: str) -> jax.Array:
    """An activation whose dimensions have the logical `names`, split as the table says.

    Outside `jax.set_mesh` it is left alone. Raises ValueError for a name that the tables lack.
    """
    spec = partition_spec(names)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def path_name(path: tuple) -> str:
    """The name of a parameter from its path in the tree, as jax gives it: `text_encoder/words`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(mesh: Mesh, params: Any, axes: Any) -> Any:
    """The sharding of each parameter, abstract or real, from `axes`, `Network.param_axes`.

    Raises UserError for a name that the tables lack, a dimension that the mesh does not divide, or
    too many bytes replicated on a mesh with `fsdp` > 1.
    """
    total, whole = 0, {}

    def of_one(path: tuple, leaf: Any, names: tuple[str, ...]) -> NamedSharding:
        nonlocal total
        name, bytes = path_name(path), leaf.size * leaf.dtype.itemsize
        try:
            sharding = NamedSharding(mesh, partition_spec(names))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        for size, logical, axis in zip(leaf.shape, names, sharding.spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"{name}: its axis {logical!r} of size {size} is not a multiple of mesh.{axis} "
                    f"{mesh.shape[axis]}; change mesh.{axis} or {RULES[logical][1]}"
                )
        total += bytes
        whole[name] = bytes * sharding.is_fully_replicated
        return sharding

    shardings = jax.tree_util.tree_map_with_path(of_one, params, axes)
    replicated = sum(whole.values())
    # The tensor axis promises no memory, so a mesh of it alone is not checked.
    if mesh.shape["fsdp"] > 1 and replicated > max(MAX_REPLICATED * total, NEGLIGIBLE_BYTES):
        raise UserError(
            f"{replicated / total:.1%} of the parameters' bytes lie on every device "
            f"(at most {MAX_REPLICATED:.0%} may), {max(whole, key=whole.get)} the largest: "
            f"set mesh.fsdp to 1 or give its axes a rule in {__name__}"
        )
    return shardings


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Shape, dtype and sharding of each array of `tree`."""
    struct = jax.ShapeDtypeStruct
    return jax.tree.map(lambda x, s: struct(x.shape, x.dtype, sharding=s), tree, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows in contiguous blocks over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))
