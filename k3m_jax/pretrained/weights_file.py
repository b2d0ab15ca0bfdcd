"""Parameters as one safetensors file: flat, under our own names, with a JSON object of meta.

A name is the path in the tree of parameters, joined by "/": `text_encoder/words`. Repeated layers
are stacked in one tensor, as the model has them. Any safetensors reader opens the file.

Beside the meta stand a digest of each tensor and a seal on both: what is read is what was written.
"""

import hashlib
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

from k3m_jax.model.network import Network, Params, flat, nested
from k3m_jax.parallel.digests import digests
from k3m_jax.settings import UserError

WEIGHTS = "model.safetensors"  # what the file is called in a folder of ours
META = "k3m_jax"  # the key of our meta in the file's own table of strings
DIGESTS, SEAL = "k3m_jax_digests", "k3m_jax_seal"
# The format's names of what a tensor of a model can hold; its own NumPy reader has no BF16.
DTYPES = {
    **{name: jnp.dtype(f"float{name[1:]}") for name in ("F64", "F32", "F16")},
    **{name: jnp.dtype(f"int{name[1:]}") for name in ("I64", "I32", "I16", "I8")},
    **{"U8": jnp.dtype("uint8"), "BOOL": jnp.dtype("bool"), "BF16": jnp.dtype("bfloat16")},
}


def write_weights(path: pathlib.Path, params: Params, meta: Mapping[str, Any]) -> str:
    """Writes parameters, gathered on the host, and their meta; returns the seal of both."""
    arrays = {n: np.ascontiguousarray(x) for n, x in flat(jax.device_get(params)).items()}
    strings = {META: json.dumps(meta), DIGESTS: json.dumps(digests(arrays))}
    strings[SEAL] = _seal(strings)
    # Not by `save_file`, whose files only their owner may read: a service is another user.
    path.write_bytes(save(arrays, strings))
    return strings[SEAL]


def read_weights(
    path: epath.PathLike, seal: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by name, and their meta, empty if another writer's; `path` is local or remote.

    What `write_weights` wrote is verified; `seal`, if given, must be what that returned. Raises
    UserError without such a file, if it is no safetensors, holds an unknown kind or has changed.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    data = path.read_bytes()
    try:
        tensors = safetensors.deserialize(data)
        # `deserialize` omits the meta, which is in the header; its length comes first.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error
    weights = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise UserError(f"{path}: {name} holds {tensor['dtype']}: save it as float32")
        array = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        weights[name] = array.reshape(tensor["shape"])
    strings = header.get("__metadata__") or {}
    _verify(path, weights, strings, seal)
    return weights, json.loads(strings.get(META, "{}"))


def _verify(
    path: epath.Path,
    weights: Mapping[str, np.ndarray],
    strings: Mapping[str, str],
    seal: str | None,
) -> None:
    """Raises UserError where weights of ours are not what was written."""
    changed = f"{path} is damaged, or was changed after it was written"
    given = strings.get(SEAL)
    if seal and given != seal:
        raise UserError(f"{changed}: it is not the file that {path.parent} was written with")
    if given is None:  # another writer's, or ours of before there were digests
        return
    if given != _seal(strings):
        raise UserError(f"{changed}: its header is not the one that was sealed")
    saved, found = json.loads(strings[DIGESTS]), digests(weights)
    if differing := [name for name in {*saved, *found} if saved.get(name) != found.get(name)]:
        raise UserError(f"{changed}: {min(differing)}, one of {len(differing)} tensors")


def _seal(strings: Mapping[str, str]) -> str:
    sealed = json.dumps([strings.get(META), strings.get(DIGESTS)])
    return hashlib.sha256(sealed.encode()).hexdigest()


def fit(
    weights: Mapping[str, np.ndarray | jax.Array],
    network: Network,
    path: pathlib.Path,
    *,
    whole: bool = True,
) -> Params:
    """Weights as the parameters of a model, or if not `whole` as some of them, in its dtypes.

    Raises UserError for a name or a shape that is not the model's; `path` is named.
    """
    wanted = network.abstract_params()
    if whole and (lacking := wanted.keys() - weights.keys()):
        raise UserError(f"{path} lacks {len(lacking)} parameters, such as {min(lacking)}")
    if unknown := weights.keys() - wanted.keys():
        raise UserError(
            f"{path} has, unknown to the model, {len(unknown)} of its {len(weights)} parameters, "
            f"such as {min(unknown)}"
        )
    fitted = {}
    for name, array in weights.items():
        if array.shape != (ours := wanted[name]).shape:
            raise UserError(f"{path}: {name} has the shape {array.shape}, ours is {ours.shape}")
        fitted[name] = array.astype(ours.dtype)
    return nested(fitted)
