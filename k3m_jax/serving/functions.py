"""The functions of an exported model: pure, of parameters and arrays; all else is made of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.data.input.batch import Batch, BatchLayout
from k3m_jax.modalities.base import Array
from k3m_jax.modalities.knowledge import CANDIDATE_ARRAYS
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives.link_prediction import LinkPrediction, energy
from k3m_jax.settings import Task
from k3m_jax.settings.presets import PRESETS
from k3m_jax.training.task_network import HEAD, Head


def embed(network: Network, params: Params, products: Batch) -> jax.Array:
    """Products, `BatchLayout.products` of B rows -> their embeddings c* [B, D], float32."""
    if network.rows_independent:
        return network.embed(params, products)
    # As if each were the only row, a product has one embedding, in whatever row.
    alone = jax.tree.map(lambda x: x[:, None], products)
    return jax.vmap(functools.partial(network.embed, params))(alone)[:, 0]


def link_scores(
    network: Network, params: Params, embeddings: jax.Array, triples: Mapping[str, jax.Array]
) -> jax.Array:
    """How well each triple fits each product: the negated energy `−‖c* + p − v‖`, high is likely.

    Embeddings c* [B, D] and Q texts, the arrays of `CandidateTexts` by name -> [B, Q], float32.
    """
    p, v = network.encode_candidates(params, triples)
    return -energy(embeddings[:, None], p, v, network.settings.objectives.lpm.norm)


def functions(
    network: Network, task: Task | None = None
) -> dict[str, tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    """The functions (params, *arguments) of a model by name, each with its arguments.

    An argument is an `Array`, its rows B or Q included, or a dict of them. That of the head of
    `task`, the last, is called with the head's parameters among the model's.
    """

    def rows(letter: str, array: Array, shape: tuple[int, ...]) -> Array:
        return Array((letter, *shape), np.dtype(array.dtype).name, array.meaning)

    s = network.settings
    products = {n: rows("B", a, a.shape) for n, a in BatchLayout.for_inference(s).products.items()}
    found = {"embed": (functools.partial(embed, network), (products,))}
    if LinkPrediction.name in PRESETS[s.model.preset].objectives:  # it learned to score triples
        embeddings = Array(("B", s.model.text.width), "float32", "what `embed` returns")
        texts, triples = LinkPrediction.from_settings(s).arrays, {}
        for name in CANDIDATE_ARRAYS:
            array = texts[f"link_{name}"]
            triples[name] = rows("Q", array, array.shape[1:])  # instead of an item's J
        found["link_scores"] = functools.partial(link_scores, network), (embeddings, triples)
    if task:
        head = Head(task, s.model.text.width)
        found |= head_functions(network, head, found["link_scores"][1][1])
    return found


def classify(network: Network, head: Head, params: Params, embeddings: jax.Array) -> jax.Array:
    """Embeddings c* [B, D] -> probabilities of the classes [B, classes]."""
    return jax.nn.softmax(head.apply(params[HEAD], embeddings))


def same_product(
    network: Network, head: Head, params: Params, first: jax.Array, second: jax.Array
) -> jax.Array:
    """Embeddings c* of two products, [B, D] each -> the logit [B] that they are one."""
    return head.apply(params[HEAD], jnp.stack([first, second], 1))


def value_scores(
    network: Network, head: Head, params: Params, embeddings: jax.Array, triples: Any
) -> jax.Array:
    """Embeddings c* [B, D], Q texts as of `link_scores` -> scores [B, Q], high is likely."""
    model = {name: x for name, x in params.items() if name != HEAD}
    p, v = network.encode_candidates(model, triples)
    encoded = head.apply(params[HEAD], p, v, method="encode")
    return head.apply(params[HEAD], embeddings, *encoded, method="score_all")


def head_functions(
    network: Network, head: Head, triples: dict[str, Array]
) -> dict[str, tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    """The function of a head by name, with its arguments; its weights include the model's."""
    c = Array(("B", head.width), "float32", "what `embed` returns")
    function, arguments = {
        "classification": (classify, (c,)),
        "alignment": (same_product, (c, c)),
        "questions": (value_scores, (c, triples)),
    }[head.task.name]
    return {function.__name__: (functools.partial(function, network, head), arguments)}
