"""Parameters as one safetensors file: flat, under our own names, a JSON object of meta beside them.

A name is the path in the tree of parameters, joined by "/": `text_encoder/words`. Repeated layers
are stacked in one tensor, as the model has them. Any safetensors reader opens the file.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath
from safetensors.numpy import save

from k3m_jax.model.network import Network, Params
from k3m_jax.parallel.shardings import unbox
from k3m_jax.settings import UserError

WEIGHTS = "model.safetensors"  # what the file is called in a folder of ours
META = "k3m_jax"  # the key of our meta in the file's own table of strings
# The format's names of what a tensor of a model can hold; its own NumPy reader has no BF16.
DTYPES = {
    **{name: jnp.dtype(f"float{name[1:]}") for name in ("F64", "F32", "F16")},
    **{name: jnp.dtype(f"int{name[1:]}") for name in ("I64", "I32", "I16", "I8")},
    **{"U8": jnp.dtype("uint8"), "BOOL": jnp.dtype("bool"), "BF16": jnp.dtype("bfloat16")},
}


def path_name(path: tuple) -> str:
    """The name of a parameter from its path in the tree, as jax gives it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flat(params: Params) -> dict[str, Any]:
    """A tree of parameters as {name: array}, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): leaf for path, leaf in leaves}


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
    # Not by `save_file`, whose files nobody but their owner may read: a service is someone else.
    path.write_bytes(save(arrays, {META: json.dumps(meta)}))


def read_weights(path: epath.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by name, and their meta; that of a file of another writer is empty.

    Args:
      path: of the file, local or remote.

    Raises:
      UserError: there is no file, it is no safetensors, or it holds numbers of an unknown kind.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    data = path.read_bytes()
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error
    # Not told by `deserialize`: the header, its length before it.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    weights = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise UserError(f"{path}: {name} holds {tensor['dtype']}: save it as float32")
        array = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        weights[name] = array.reshape(tensor["shape"])
    return weights, json.loads(header.get("__metadata__", {}).get(META, "{}"))


def fit(weights: Mapping[str, np.ndarray], network: Network, path: pathlib.Path) -> Params:
    """Weights as the parameters of a model.

    Raises:
      UserError: a name or a shape is not the model's; `path` is named.
    """
    if lacking := abstract_params(network).keys() - weights.keys():
        raise UserError(f"{path} lacks {len(lacking)} parameters, such as {min(lacking)}")
    return nested(fit_some(weights, network, path))


def fit_some(
    weights: Mapping[str, np.ndarray | jax.Array], network: Network, path: pathlib.Path
) -> dict[str, np.ndarray | jax.Array]:
    """Weights as some of the parameters of a model, by name, in its dtypes.

    Raises:
      UserError: as `fit`, but a model may have more parameters.
    """
    wanted = abstract_params(network)
    if unknown := weights.keys() - wanted.keys():
        raise UserError(
            f"{path} has, unknown to the model, {len(unknown)} of its {len(weights)} parameters, "
            f"such as {min(unknown)}"
        )
    for name, array in weights.items():
        if array.shape != wanted[name].shape:
            raise UserError(
                f"{path}: {name} has the shape {array.shape}, the model's is {wanted[name].shape}"
            )
    return {name: array.astype(wanted[name].dtype) for name, array in weights.items()}
