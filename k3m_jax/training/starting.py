"""What a run starts from: its newest checkpoint, others' weights, or its seed."""

from typing import Any

from etils import epath
from jax.sharding import Mesh

from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.model.network import Network, flat
from k3m_jax.parallel import distributed
from k3m_jax.pretrained.weights_file import WEIGHTS, fit, read_weights
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import FOLDER, Checkpoints, load_meta, load_params
from k3m_jax.training.step import State
from k3m_jax.training.task_network import network_of
from k3m_jax.training.trainer import Trainer


def init_or_restore(trainer: Trainer, checkpoints: Checkpoints, tokenizer: Tokenizer) -> State:
    """The newest checkpoint, else parameters of `init_from` where it has them, else of the seed.

    Raises UserError: the checkpoints are of another run, or what `read_init_from` raises.
    """
    if state := checkpoints.restore(trainer.abstract_state):
        return state
    if not (folder := trainer.network.settings.init_from):
        return trainer.init()
    arrays, origin = read_init_from(folder, trainer.network, tokenizer, trainer.mesh)
    if distributed.is_lead_process():
        print(f"starting from {folder}: {len(arrays)} parameters", flush=True)
    checkpoints.record_init_source(origin)
    return trainer.init(arrays)


def read_init_from(
    folder: epath.PathLike, network: Network, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a folder of `launch.import_weights` or `launch.export`, or of a run's best.

    Returns them in the model's shapes and dtypes by name, and what a run's meta says of their
    origin. Raises UserError: no such folder, another vocabulary, or weights of another model.
    """
    folder = epath.Path(folder)
    path, of_run = folder / WEIGHTS, (folder / FOLDER).exists()
    try:
        if of_run:
            meta = load_meta(folder)
            different = "another fingerprint" * (meta.vocabulary != tokenizer.fingerprint)
        elif path.exists():
            different = holds_tokenizer(folder) and tokenizer.difference(Tokenizer.load(folder))
        else:
            wanted = "name a folder of launch.import_weights or launch.export, or a --workdir"
            raise UserError(f"{folder} has neither {WEIGHTS} nor {FOLDER}: {wanted}")
        if different:
            kept = "the folder kept with its shards" if of_run else folder
            reason = f"the vocabulary of {folder} is not the run's ({different})"
            raise UserError(f"{reason}: set --config.data.tokenizer={kept}")
        if of_run:
            other = network_of(Settings.from_config(meta.settings))
            params, step = load_params(folder, "best", other, mesh)
            weights, origin = flat(params), {"step": step}
        else:
            weights, origin = read_weights(path)
        if not (weights and origin):
            raise UserError(f"{path} is not of this library: python -m launch.import_weights")
        arrays = flat(fit(weights, network, folder, whole=False))
    except UserError as error:
        raise UserError(f"init_from: {error}") from error
    return arrays, {"folder": str(folder), "parameters": len(arrays), **origin}
