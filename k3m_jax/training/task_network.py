"""What fine-tuning trains: a model with the head of a task, as pure functions like the model's."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.modalities.knowledge import CANDIDATE_ARRAYS
from k3m_jax.model.heads import TASK_HEADS, TaskHead
from k3m_jax.model.layers import Array, Scalar
from k3m_jax.model.network import Initialized, Key, Network, Params
from k3m_jax.settings import Settings, Task

HEAD = "task_head"  # key of a task head's parameters next to the model's


@dataclasses.dataclass(frozen=True)
class Head(Initialized):
    """The head of a task."""

    task: Task  # its classes are given
    width: int  # D

    def apply(self, params: Params, *arrays: Array, method: str | None = None) -> Array:
        """What the module of the task returns (`model/heads.py`)."""
        return self.module.apply({"params": params}, *arrays, method=method)

    def boxed_params(self, key: jax.Array) -> Any:
        """As `Initialized`; the values of the arrays do not matter."""
        arrays = [jnp.zeros((1, *shape, self.width)) for shape in self.module.shapes]
        return self.module.init(key, *arrays)["params"]

    @property
    def module(self) -> TaskHead:
        """The flax module."""
        return TASK_HEADS[self.task.name](self.task, self.width)


@dataclasses.dataclass(frozen=True)
class TaskNetwork(Initialized):
    """A model with a task's head, which fine-tuning trains: parameters of both, names unchanged.

    Parameters that only pretraining reads stay as loaded, but for weight decay: a fine-tuned model
    is still a model.
    """

    settings: Settings

    @property
    def backbone(self) -> Network:
        """The model without the head."""
        return Network(dataclasses.replace(self.settings, task=Task()))

    @property
    def head(self) -> Head:
        """The head without the model."""
        return Head(self.settings.task, self.settings.model.text.width)

    def boxed_params(self, key: jax.Array) -> Any:
        """Those of the model and of the head."""
        head = self.head.boxed_params(jax.random.fold_in(key, 1))
        return {**self.backbone.boxed_params(key), HEAD: head}

    def apply(
        self, params: Params, batch: Batch, *, temperature: Scalar = 1.0, key: Key = None
    ) -> Array:
        """The head's output for the examples of a batch; arguments as of `Network.apply`."""
        own, head = split_params(params)
        product_key, candidate_key = (None, None) if key is None else jax.random.split(key)
        product = self.backbone.product(own, batch, temperature=temperature, key=product_key)
        rows, *candidates = self.head.module.shapes
        c = product.embedding.reshape(-1, *rows, self.head.width)
        if not candidates:
            return self.head.apply(head, c)
        texts = {name: batch[f"link_{name}"] for name in CANDIDATE_ARRAYS}
        encoded = self.backbone.encode_candidates(own, texts, key=candidate_key)
        return self.head.apply(head, c, *encoded)


def network_of(settings: Settings) -> Network | TaskNetwork:
    """What a run trains."""
    return (TaskNetwork if settings.task.downstream else Network)(settings)


def split_params(params: Params) -> tuple[Params, Params]:
    """The model's parameters, and the head's."""
    return {name: x for name, x in params.items() if name != HEAD}, params[HEAD]
