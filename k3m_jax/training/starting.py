"""What a run's first step starts from."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from k3m_jax.data.tokenization import Tokenizer, holds_tokenizer
from k3m_jax.model.network import Network
from k3m_jax.model.weights_file import WEIGHTS, fit_some, read_weights
from k3m_jax.parallel import distributed
from k3m_jax.settings import UserError
from k3m_jax.training.checkpoints import Checkpoints
from k3m_jax.training.compilation import Program
from k3m_jax.training.state import State


class Weights(NamedTuple):
    """Parameters to start from; those that are left out begin at random."""

    arrays: dict[str, np.ndarray]  # by name, in the model's shapes and dtypes
    origin: dict[str, Any]  # for the run's meta


def first_state(program: Program, checkpoints: Checkpoints, tokenizer: Tokenizer) -> State:
    """The first of these that there is:

    1. resume: the newest checkpoint in the run's folder; `init_from` is not read again;
    2. init_from: the parameters that this folder has, all else as in 3;
    3. scratch: parameters drawn from the seed.

    Raises:
      UserError: the checkpoints are of another run, or what `read_init_from` raises.
    """
    if state := checkpoints.restore(program.abstract_state):
        return state
    if folder := program.network.settings.init_from:
        weights = read_init_from(pathlib.Path(folder), program.network, tokenizer)
        checkpoints.began_from(weights.origin)
        return program.init(weights.arrays)
    return program.init()


def read_init_from(folder: pathlib.Path, network: Network, tokenizer: Tokenizer) -> Weights:
    """Weights of a folder that `launch.import_weights` or `launch.export` wrote.

    Args:
      folder: the setting `init_from`.
      network: the run's model.
      tokenizer: the run's.

    Raises:
      UserError: no such folder, another vocabulary, or weights that are not the model's.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"init_from: {folder} has no {WEIGHTS}: python -m launch.import_weights writes such a "
            "folder, and so does launch.export"
        )
    if holds_tokenizer(folder) and (different := tokenizer.difference(Tokenizer.load(folder))):
        raise UserError(
            f"init_from: the vocabulary of {folder} is not the run's ({different}): set "
            f"--config.data.tokenizer={folder}"
        )
    weights, meta = read_weights(path)
    if not (weights and meta):
        raise UserError(
            f"init_from: {path} is not of this library's making: import it, python -m "
            f"launch.import_weights --input={folder}"
        )
    try:
        arrays = fit_some(weights, network, path)
    except UserError as error:
        raise UserError(
            f"init_from: {error}; take the model settings that the weights were made with"
        ) from error
    if distributed.leads():
        print(f"starting from {folder}: {len(arrays)} parameters", flush=True)
    return Weights(arrays, {"folder": str(folder), "parameters": len(arrays), **meta})
