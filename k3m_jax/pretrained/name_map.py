"""Tensors by name to our parameters and back: every name is used, known to be dead, or refused."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from k3m_jax.pretrained.weights_file import flat, nested
from k3m_jax.settings import UserError

Tensors = Mapping[str, np.ndarray]


class Slot(NamedTuple):
    """Where a tensor lies in our parameters."""

    path: str  # keys of the nested dicts, "/" between them
    # Of a Linear, whose weight PyTorch keeps as [outputs, inputs]: how many dimensions of ours are
    # its inputs, 0 for its bias. None is anything else, of the same shape in both.
    inputs: int | None = None
    # Of several tensors in one array of ours: along which axis, and the how manyth.
    axis: int = 0
    index: int | None = None

    def part(self, array: np.ndarray) -> np.ndarray:
        """A view of what the tensor fills of `array`."""
        whole = (slice(None),) * self.axis
        return array if self.index is None else array[(*whole, self.index)]

    def shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """Of the tensor, from that of its part of ours."""
        if self.inputs is None:
            return part
        inputs, outputs = part[: self.inputs], part[self.inputs :]
        return (math.prod(outputs), math.prod(inputs)) if inputs else (math.prod(outputs),)

    def read(self, tensor: np.ndarray, array: np.ndarray) -> None:
        """Copies the tensor into `array`."""
        part = self.part(array)
        part[...] = (tensor if self.inputs is None else tensor.T).reshape(part.shape)

    def write(self, array: np.ndarray) -> np.ndarray:
        """The tensor that lies in `array`."""
        part = self.part(array)
        shape = self.shape(part.shape)
        return part if self.inputs is None else part.reshape(shape[::-1]).T


class NameMap(NamedTuple):
    """The names of a kind of model."""

    kind: str  # as messages call it
    slots: Mapping[str, Slot]  # names of one slot are tied: their tensors are equal
    dead: re.Pattern  # names that such a model may have and ours has no use for


class ImportReport(NamedTuple):
    """What became of the names of a file."""

    used: tuple[str, ...]
    dead: tuple[str, ...]


def linear(theirs: str, ours: str, inputs: int = 1) -> dict[str, Slot]:
    """The slots of a Linear; `inputs` of our kernel's dimensions are its inputs."""
    return {
        f"{theirs}.weight": Slot(f"{ours}/kernel", inputs),
        f"{theirs}.bias": Slot(f"{ours}/bias", 0),
    }


def layer_norm(theirs: str, ours: str) -> dict[str, Slot]:
    """The slots of a LayerNorm."""
    return {f"{theirs}.weight": Slot(f"{ours}/scale"), f"{theirs}.bias": Slot(f"{ours}/bias")}


def read_tensors(tensors: Tensors, names: NameMap, params: Any) -> tuple[Any, ImportReport]:
    """`params` with the tensors in their places.

    Args:
      tensors: of a file, by their names.
      names: of that kind of model; each of its slots must be filled.
      params: unboxed, arrays or abstract; what has no slot stays, what is abstract becomes 0.

    Returns:
      Parameters as NumPy arrays, and the account of the names.

    Raises:
      UserError: a name that is not known, one that is lacking, a shape that does not fit, or tied
        tensors that differ.
    """
    arrays = {path: _writable(array) for path, array in flat(params).items()}
    dead = tuple(sorted(n for n in tensors if n not in names.slots and names.dead.fullmatch(n)))
    if unknown := sorted(set(tensors) - set(names.slots) - set(dead)):
        raise UserError(f"{_first(unknown)} is no name of {names.kind}")
    filled: dict[Slot, str] = {}
    for name, slot in names.slots.items():
        if name not in tensors:
            continue
        tensor, part = np.asarray(tensors[name], np.float32), slot.part(arrays[slot.path])
        if tensor.shape != (shape := slot.shape(part.shape)):
            raise UserError(
                f"{name} has the shape {tensor.shape}, the model's settings ask for {shape}"
            )
        if slot in filled and not np.array_equal(tensor, slot.write(arrays[slot.path])):
            raise UserError(f"{name} differs from {filled[slot]}, but they are tied")
        slot.read(tensor, arrays[slot.path])
        filled[slot] = name
    if lacking := [name for name, slot in names.slots.items() if slot not in filled]:
        raise UserError(f"{names.kind} lacks {_first(lacking)}")
    used = tuple(sorted(set(tensors) - set(dead)))
    return nested(arrays), ImportReport(used, dead)


def write_tensors(params: Any, names: NameMap) -> dict[str, np.ndarray]:
    """The tensors that lie in `params` (unboxed), by their names; dead names are not written."""
    arrays = flat(params)
    return {
        name: np.ascontiguousarray(slot.write(np.asarray(arrays[slot.path])))
        for name, slot in names.slots.items()
    }


def _first(names: Sequence[str]) -> str:
    """The first, and of how many."""
    return names[0] if len(names) == 1 else f"{names[0]} (the first of {len(names)})"


def _writable(array: Any) -> np.ndarray:
    if isinstance(array, jax.ShapeDtypeStruct):
        return np.zeros(array.shape, array.dtype)
    return np.array(array)
