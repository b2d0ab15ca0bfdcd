"""A folder of someone's weights: tensors by their names, and the `config.json` beside them.

Never through pickle: a PyTorch file is opened by torch's own loader of weights alone, which runs
nothing that a file brings along.
"""

import json
from typing import Any

import numpy as np
from etils import epath

from k3m_jax.pretrained.weights_file import read_weights
from k3m_jax.settings import UserError

CONFIG = "config.json"
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors")  # whole, or in parts
PYTORCH = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "*.pt", "*.pth", "*.bin")


def read_config(folder: epath.Path) -> dict[str, Any]:
    """`config.json`; UserError where there is none."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the one that has the weights and {CONFIG}")
    if not path.is_file():
        raise UserError(
            f"{folder} has no {CONFIG}, which tells the sizes of the weights: put the one "
            "that came with them beside them"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a table of settings")
    return config


def read_folder(folder: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, of its safetensors where it has any.

    Raises:
      UserError: no weights, a damaged file, or a PyTorch file where torch is not installed.
    """
    for patterns, read in ((SAFETENSORS, _read_safetensors), (PYTORCH, _read_pytorch)):
        for pattern in patterns:
            if paths := sorted(folder.glob(pattern)):
                return {name: tensor for path in paths for name, tensor in read(path).items()}
    raise UserError(f"{folder} has no weights, neither {SAFETENSORS[0]} nor {PYTORCH[0]}")


def _read_safetensors(path: epath.Path) -> dict[str, np.ndarray]:
    return read_weights(path)[0]


def _read_pytorch(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, and torch can't be imported ({error}): "
            f"pip install -r requirements-torch.txt, or save the model as {SAFETENSORS[0]}"
        ) from error
    try:
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own, zipfile's, torch's: each damage has another
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: torch finds more than weights in it, or can't read it ({reason[0][:200]}): "
            f"save the model's state_dict() alone, or as {SAFETENSORS[0]}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise UserError(
            f"{path} holds more than named tensors: save the model's state_dict() alone"
        )
    return {name: _as_numpy(tensor) for name, tensor in state.items()}


def _as_numpy(tensor: Any) -> np.ndarray:
    """NumPy has no bfloat16."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
