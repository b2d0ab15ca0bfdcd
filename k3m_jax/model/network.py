"""The model as pure functions of parameters and batches: the seam between flax and the rest."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from k3m_jax.data.input.batch import Batch, BatchLayout
from k3m_jax.model.encoders import property_and_value
from k3m_jax.model.k3m import K3M, Outputs, Product
from k3m_jax.model.layers import Array, Scalar
from k3m_jax.parallel.shardings import path_name
from k3m_jax.settings import Settings

Params = Any  # a nested dict of arrays
Key = Array | None  # None: evaluation, which is deterministic

# By preset: linen modules `module(settings, deterministic)` with K3M's calls, `text_encoder` and
# `rows_independent`.
MODULES: dict[str, type[nn.Module]] = {"paper": K3M}


class Initialized:
    """Settings of something with parameters; `boxed_params(key)` are flax's boxes of them."""

    def init_params(self, key: jax.Array) -> Params:
        """Fresh float32 parameters."""
        return params_and_axes(self.boxed_params(key))[0]

    @functools.cache  # noqa: B019
    def param_axes(self) -> Params:
        """The same tree with each parameter's logical axis names (`parallel/shardings.py`)."""
        return params_and_axes(jax.eval_shape(self.boxed_params, jax.random.key(0)))[1]

    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each parameter, by name."""
        return flat(jax.eval_shape(self.init_params, jax.random.key(0)))


@dataclasses.dataclass(frozen=True)
class Network(Initialized):
    """The model of resolved settings."""

    settings: Settings

    def scanned(self) -> Self:
        """Scanned layers: compiles faster and is smaller; used for init and export."""
        model = dataclasses.replace(self.settings.model, unroll=False)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, model=model))

    @property
    def rows_independent(self) -> bool:
        """Whether a product's embedding depends on nothing else in its batch, at evaluation."""
        return MODULES[self.settings.model.preset].rows_independent

    def apply(
        self, params: Params, batch: Batch, *, temperature: Scalar = 1.0, key: Key = None
    ) -> Outputs:
        """Everything that the pretraining objectives read of a `data.input.batch` batch.

        `temperature` is that of the choices of `hard` fusion, `key` of dropout and Gumbel noise.
        """
        return self._run(params, key, None, batch, temperature)

    def product(
        self, params: Params, batch: Batch, *, temperature: Scalar = 1.0, key: Key = None
    ) -> Product:
        """The fused streams, the embedding and the attention over triples; as `apply`."""
        return self._run(params, key, "product", batch, temperature)

    def embed(self, params: Params, batch: Batch) -> Array:
        """The products' embeddings c* [B, D], float32, at evaluation."""
        return self.product(params, batch).embedding

    def encode_candidates(
        self, params: Params, texts: Batch, *, key: Key = None
    ) -> tuple[Array, Array]:
        """Triples without a product, arrays [..., L or 2] of `CandidateTexts` -> p, v [..., D]."""

        def encode(module: nn.Module) -> tuple[Array, Array]:
            (hidden,) = module.text_encoder((texts["tokens"], texts["mask"]))
            return property_and_value(hidden, texts["property_spans"], texts["value_spans"])

        return self._run(params, key, encode)

    def boxed_params(self, key: jax.Array) -> Any:
        """As `Initialized`; the values of the batch do not matter."""
        spec = BatchLayout.of(self.settings).padded.spec(self.settings.objectives.group)
        batch = {name: jnp.zeros(shape, dtype) for name, (shape, dtype) in spec.items()}
        rngs = dict.fromkeys(("params", "dropout", "gumbel"), key)
        module = self.scanned()._module(deterministic=True)
        return module.init(rngs, batch, 1.0)["params"]

    def _run(self, params: Params, key: Key, method: str | Callable | None, *args: Any) -> Any:
        # Not every module is deterministic in evaluation: a fixed key makes it repeatable.
        dropout, gumbel = jax.random.split(jax.random.key(0) if key is None else key)
        return self._module(deterministic=key is None).apply(
            {"params": params}, *args, rngs={"dropout": dropout, "gumbel": gumbel}, method=method
        )

    def _module(self, deterministic: bool) -> nn.Module:
        return MODULES[self.settings.model.preset](self.settings, deterministic)


def flat(params: Params) -> dict[str, Any]:
    """A tree of parameters as {name: array}, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): leaf for path, leaf in leaves}


def nested(weights: Mapping[str, Any]) -> Params:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(weights, sep="/")


def params_and_axes(boxed: Any) -> tuple[Params, Params]:
    """Flax's initial parameters as plain arrays, and their logical axis names in the same tree.

    Raises ValueError for a parameter whose initialiser names no axes.
    """

    def is_box(leaf: Any) -> bool:
        return isinstance(leaf, nn.LogicallyPartitioned)

    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
        if not is_box(leaf):
            raise ValueError(f"{path_name(path)}: its initialiser names no logical axes")
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=is_box)
    return params, jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)
