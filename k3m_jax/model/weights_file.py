"""Parameters as one safetensors file: flat, under our own names, a JSON object of meta beside them.

A name is the path in the tree of parameters, joined by "/": `text_encoder/words`. Repeated layers
are stacked in one tensor, as the model has them. Any safetensors reader opens the file.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from k3m_jax.model.network import Network, Params
from k3m_jax.parallel.shardings import unbox
from k3m_jax.settings import UserError

META = "k3m_jax"  # the key of our meta in the file's own table of strings


def flat(params: Params) -> dict[str, Any]:
    """A tree of parameters as {name: array}, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(weights: Mapping[str, Any]) -> Params:
    """The inverse of `flat`."""
    params: Params = {}
    for name, array in weights.items():
        *groups, leaf = name.split("/")
        node = params
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = array
    return params


def abstract_params(network: Network) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each parameter of a model, by name."""
    return flat(unbox(jax.eval_shape(network.init_params, jax.random.key(0))))


def write_weights(path: pathlib.Path, params: Params, meta: Mapping[str, Any]) -> None:
    """Writes parameters, gathered on the host, and what is to be known of them."""
    arrays = {n: np.ascontiguousarray(x) for n, x in flat(jax.device_get(params)).items()}
    save_file(arrays, path, {META: json.dumps(meta)})


def read_weights(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by name, and their meta; that of a file of another writer is empty.

    Raises:
      UserError: there is no file, or it is no safetensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(path, "numpy") as file:
            meta = json.loads((file.metadata() or {}).get(META, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error


def fit(weights: Mapping[str, np.ndarray], network: Network, path: pathlib.Path) -> Params:
    """Weights as the parameters of a model.

    Raises:
      UserError: a name or a shape is not the model's; `path` is named.
    """
    wanted = abstract_params(network)
    for problem, names in (
        ("lacks", wanted.keys() - weights.keys()),
        ("has, unknown to the model,", weights.keys() - wanted.keys()),
    ):
        if names:
            raise UserError(f"{path} {problem} {len(names)} parameters, such as {min(names)}")
    for name, leaf in wanted.items():
        if weights[name].shape != leaf.shape:
            raise UserError(
                f"{path}: {name} has the shape {weights[name].shape}, the model's is {leaf.shape}"
            )
    return nested({name: weights[name].astype(leaf.dtype) for name, leaf in wanted.items()})
