"""What a run's first step starts from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.model.network import Network
from k3m_jax.model.task_network import network_of
from k3m_jax.parallel import distributed
from k3m_jax.pretrained.weights_file import WEIGHTS, fit_some, flat, read_weights
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import FOLDER, Checkpoints, load_meta, load_params
from k3m_jax.training.state import State
from k3m_jax.training.trainer import Trainer


class Weights(NamedTuple):
    """Parameters to start from; those that are left out begin at random."""

    arrays: Mapping[str, np.ndarray | jax.Array]  # by name, in the model's shapes and dtypes
    origin: Mapping[str, Any]  # for the run's meta


def init_or_restore(program: Trainer, checkpoints: Checkpoints, tokenizer: Tokenizer) -> State:
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
        weights = read_init_from(folder, program.network, tokenizer, program.mesh)
        if distributed.is_lead_process():
            print(f"starting from {folder}: {len(weights.arrays)} parameters", flush=True)
        checkpoints.record_init_source(weights.origin)
        return program.init(weights.arrays)
    return program.init()


def read_init_from(
    folder: epath.PathLike, network: Network, tokenizer: Tokenizer, mesh: Mesh
) -> Weights:
    """Weights of a folder that `launch.import_weights` or `launch.export` wrote, or of a run.

    Args:
      folder: the setting `init_from`; of a run its `--workdir`, whose best checkpoint is taken.
      network: the run's model.
      tokenizer: the run's.
      mesh: where the parameters of a run are put; those of a file are NumPy arrays.

    Raises:
      UserError: no such folder, another vocabulary, or weights that are not the model's.
    """
    folder = epath.Path(folder)
    if (folder / FOLDER).exists():
        weights, origin = _of_run(folder, tokenizer, mesh)
    else:
        weights, origin = _of_file(folder, tokenizer)
    try:
        arrays = fit_some(weights, network, folder)
    except UserError as error:
        raise UserError(
            f"init_from: {error}; take the model settings that the weights were made with"
        ) from error
    return Weights(arrays, {"folder": str(folder), "parameters": len(arrays), **origin})


def _of_run(folder: epath.Path, tokenizer: Tokenizer, mesh: Mesh) -> Weights:
    meta = load_meta(folder)
    if meta.vocabulary != tokenizer.fingerprint:
        raise UserError(
            f"init_from: the vocabulary of the run in {folder} is not this run's: set "
            "data.tokenizer to the folder that it was given, or to the one kept with its shards"
        )
    other = network_of(Settings.from_config(meta.settings))
    params, step = load_params(folder, "best", other, mesh)
    return Weights(flat(params), {"step": step})


def _of_file(folder: epath.Path, tokenizer: Tokenizer) -> Weights:
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(
            f"init_from: {folder} has neither {WEIGHTS} nor {FOLDER}: name a folder that python -m "
            "launch.import_weights or launch.export wrote, or the --workdir of a run"
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
    return Weights(weights, meta)
