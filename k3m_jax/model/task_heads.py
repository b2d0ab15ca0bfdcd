"""The heads of the downstream tasks: small, and the same whatever model the embedding is of.

They read embeddings, and of the candidates of a question the text of property and value; nothing
else of the model.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax.model.layers import dense
from k3m_jax.settings import Task


class ClassificationHead(nn.Module):
    """A linear map."""

    classes: int

    @nn.compact
    def __call__(self, c: jax.Array) -> jax.Array:
        """Embeddings [I, D] -> logits [I, classes]."""
        return dense(self.classes, ("embed", "classes"), jnp.float32, "logits")(c)


class AlignmentHead(nn.Module):
    """A linear map of `|a - b|` and `a * b`: the same for (a, b) and (b, a)."""

    @nn.compact
    def __call__(self, c: jax.Array) -> jax.Array:
        """Embeddings of pairs [I, 2, D] -> logits [I] that they are one product."""
        a, b = c[:, 0], c[:, 1]
        features = jnp.stack([jnp.abs(a - b), a * b], 1)
        axes = ("parts", "embed", "scores")
        return dense(1, axes, jnp.float32, "logit", inputs=2)(features)[:, 0]


class QuestionHead(nn.Module):
    """`⟨c + W_q [c; p], v + W_v v⟩` over the root of the width, W_q [c; p] as a sum of two maps.

    Item and value come from one text encoder, so their own likeness is where learning begins: from
    random maps alone, what a title says had to be found for each value anew.
    """

    width: int  # D

    def setup(self) -> None:
        """The three maps."""
        for name in ("item", "property", "value"):
            setattr(self, name, dense(self.width, ("embed", "width"), jnp.float32, f"of_{name}"))

    def __call__(self, c: jax.Array, p: jax.Array, v: jax.Array) -> jax.Array:
        """Embeddings [I, D], candidates' properties and values [I, J, D] -> scores [I, J]."""
        return self.score(c, *self.encode(p, v))

    def encode(self, p: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is the same for all items, of candidates [..., D]: prior [...], value [..., D]."""
        values = v + self.value(v)
        return (self.property(p) * values).sum(-1), values

    def score(self, c: jax.Array, priors: jax.Array, values: jax.Array) -> jax.Array:
        """Embeddings [I, D], encoded candidates [I, J], [I, J, D] -> scores [I, J]."""
        return (jnp.einsum("id,ijd->ij", c + self.item(c), values) + priors) / jnp.sqrt(self.width)


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a task, as pure functions of parameters and arrays."""

    task: Task  # its classes are given
    width: int  # D

    def init_params(self, key: jax.Array) -> Any:
        """Fresh float32 parameters, each boxed with its logical axis names."""
        arrays = (jnp.zeros((1, *shape, self.width)) for shape in _READ[self.task.name])
        return self._module.init(key, *arrays)["params"]

    def apply(self, params: Any, *arrays: jax.Array, method: str | None = None) -> jax.Array:
        """What the task's module above returns."""
        return self._module.apply({"params": params}, *arrays, method=method)

    @property
    def _module(self) -> nn.Module:
        return _MODULES[self.task.name](self)


_MODULES = {
    "classification": lambda head: ClassificationHead(len(head.task.classes)),
    "alignment": lambda head: AlignmentHead(),
    "questions": lambda head: QuestionHead(head.width),
}
# Shapes of the arrays that a module reads of an example, the width left out.
_READ = {"classification": ((),), "alignment": ((2,),), "questions": ((), (1,), (1,))}
