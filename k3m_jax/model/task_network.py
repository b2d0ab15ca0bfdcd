"""A model with the head of a downstream task: what fine-tuning trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.network import Network, Params
from k3m_jax.model.task_heads import Head
from k3m_jax.settings import Settings, Task

HEAD = "task_head"  # its place among the model's parameters


@dataclasses.dataclass(frozen=True)
class TaskNetwork:
    """`Network` and `Head` as one: the model's own parameters, by the same names, and a head's.

    Those that pretraining alone reads stay as they are loaded, but for weight decay: a fine-tuned
    model is still a model.
    """

    settings: Settings

    @property
    def backbone(self) -> Network:
        """The model without the head."""
        return Network(dataclasses.replace(self.settings, task=Task()))

    @property
    def head(self) -> Head:
        """The head."""
        return Head(self.settings.task, self.settings.model.text.width)

    def init_params(self, key: jax.Array) -> Params:
        """Fresh float32 parameters, each boxed with its logical axis names."""
        model = self.backbone.init_params(key)
        return {**model, HEAD: self.head.init_params(jax.random.fold_in(key, 1))}

    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        temperature: jax.Array | float = 1.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """What the head says of the examples of a batch; arguments as of `Network.apply`."""
        model, head = split_params(params)
        for_items, for_candidates = (None, None) if key is None else jax.random.split(key)
        product = self.backbone.product(model, batch, temperature=temperature, key=for_items)

        def candidates() -> tuple[jax.Array, jax.Array]:
            names = ("tokens", "mask", "property_spans", "value_spans")
            arrays = [batch[f"link_{name}"] for name in names]
            B, J = arrays[0].shape[:2]
            flat = (x.reshape(B * J, *x.shape[2:]) for x in arrays)
            encoded = self.backbone.encode_candidates(model, *flat, key=for_candidates)
            return tuple(x.reshape(B, J, -1) for x in encoded)

        read = _READ[self.settings.task.name](product.embedding, candidates)
        return self.head.apply(head, *read)


def split_params(params: Params) -> tuple[Params, Any]:
    """The model's parameters, and the head's."""
    return {name: x for name, x in params.items() if name != HEAD}, params[HEAD]


# Embeddings of a batch's rows, and what encodes its candidates -> what the head reads.
_READ: dict[str, Callable[[jax.Array, Callable], tuple[jax.Array, ...]]] = {
    "classification": lambda c, candidates: (c,),
    "alignment": lambda c, candidates: (c.reshape(-1, 2, c.shape[-1]),),
    "questions": lambda c, candidates: (c, *candidates()),
}


def network_of(settings: Settings) -> Network | TaskNetwork:
    """What a run trains."""
    return (TaskNetwork if settings.task.downstream else Network)(settings)
