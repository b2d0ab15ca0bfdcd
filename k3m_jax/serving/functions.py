"""What a service asks of a model, as pure functions; and the same as artefacts of `jax.export`.

An artefact holds StableHLO alone: the weights are its first argument, under the names that they
have in `model.safetensors`. So it stays small, weights are kept once for all functions, and whoever
loads it decides where they lie. The number of rows is symbolic.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from k3m_jax.data.input.batch import PRODUCT_ARRAYS, Batch, batch_spec
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives.link_prediction import energy
from k3m_jax.pretrained.weights_file import abstract_params, nested
from k3m_jax.settings import UserError

PLATFORMS = ("cpu", "cuda", "tpu")


def embed(network: Network, params: Params, products: Batch) -> jax.Array:
    """Products, `batch.PRODUCT_ARRAYS` of B rows -> their embeddings c* [B, D], float32."""
    nothing = jnp.zeros(products["region_inputs"].shape[:2], bool)
    batch = {**products, "region_hidden": nothing}
    if network.settings.model.preset == "paper":
        return network.embed(params, batch)

    # `release` draws at evaluation too, for each row of a batch anew. As if it were the only one, a
    # product has one embedding, wherever it stands.
    def alone(product: Batch) -> jax.Array:
        return network.embed(params, jax.tree.map(lambda x: x[None], product))[0]

    return jax.vmap(alone)(batch)


def link_scores(
    network: Network, params: Params, embeddings: jax.Array, triples: Mapping[str, jax.Array]
) -> jax.Array:
    """How well each triple fits each product: the negated energy `−‖c* + p − v‖`, high is likely.

    Args:
      network: the model.
      params: of the network.
      embeddings: c* [B, D].
      triples: Q texts, the arrays of `knowledge.Candidates` by name.

    Returns:
      [B, Q], float32.
    """
    p, v = network.encode_candidates(params, **triples)
    return -energy(embeddings[:, None], p, v, network.settings.objectives.lpm.norm)


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function, and the shape and dtype of its arguments after the weights.

    `shapes` is a tree like the arguments; a letter in a shape is a symbolic dimension.
    """

    function: Callable[..., jax.Array]
    shapes: tuple[Any, ...]

    def abstract(self) -> tuple[Any, ...]:
        """The arguments as jax wants them, symbols of one scope."""
        scope = export.SymbolicScope()
        return jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(
                export.symbolic_shape(",".join(map(str, shape.shape)), scope=scope), shape.dtype
            ),
            self.shapes,
        )


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one array; B and Q stand for any number of rows."""

    shape: tuple[int | str, ...]
    dtype: str


def signatures(network: Network) -> dict[str, Signature]:
    """The functions of a model by name."""
    s = network.settings
    D, L = s.model.text.width, s.lengths.candidate
    products = {
        name: Shape(("B", *shape[1:]), dtype.name)
        for name, (shape, dtype) in batch_spec(s, 1).items()
        if name in PRODUCT_ARRAYS
    }
    triples = {
        "tokens": Shape(("Q", L), "int32"),
        "mask": Shape(("Q", L), "bool"),
        "property_spans": Shape(("Q", 2), "int32"),
        "value_spans": Shape(("Q", 2), "int32"),
    }
    functions = {"embed": Signature(functools.partial(embed, network), (products,))}
    if s.model.preset == "paper":  # `release` has no score of a single triple
        embeddings = Shape(("B", D), "float32")
        functions["link_scores"] = Signature(
            functools.partial(link_scores, network), (embeddings, triples)
        )
    return functions


def serialise(network: Network, signature: Signature, platforms: Sequence[str]) -> bytes:
    """A function as what `jax.export.deserialize` reads, for each of `platforms`.

    Raises:
      UserError: an unknown platform.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        raise UserError(f"--platforms: {min(unknown)!r} is not one of {', '.join(PLATFORMS)}")
    function = jax.jit(lambda weights, *arguments: signature.function(nested(weights), *arguments))
    with _without_locations():
        lowered = export.export(function, platforms=tuple(platforms))
        return bytes(lowered(abstract_params(network), *signature.abstract()).serialize())


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Lowered code names the files of its source lines, by paths that are no one else's concern."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
