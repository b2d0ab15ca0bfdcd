"""Someone's weights as a folder that a run can start from: `init_from`.

model.safetensors    parameters under our names, float32: those that the weights fill
tokenizer.json, …    the tokenizer that they were trained with, where one is known
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.data.store import remote
from k3m_jax.model.network import Network
from k3m_jax.pretrained import bert, lxmert, source, vilbert
from k3m_jax.pretrained.name_map import ImportReport, NameMap, Slot, read_tensors
from k3m_jax.pretrained.weights_file import WEIGHTS, abstract_params, flat, nested, write_weights
from k3m_jax.reproductions.release import weights
from k3m_jax.settings import Settings, UserError


class Format(NamedTuple):
    """A kind of weights that can be imported."""

    check_config: Callable[[epath.Path, Mapping[str, Any], Settings], None]
    name_map: Callable[[Settings, Collection[str]], NameMap]


FORMATS = {
    "k3m": Format(weights.check_config, weights.name_map),
    "bert": Format(bert.check_config, bert.name_map),
    "vilbert": Format(vilbert.check_config, vilbert.name_map),
    "lxmert": Format(lxmert.check_config, lxmert.name_map),
}


class Imported(NamedTuple):
    """What came of an import."""

    params: dict[str, Any]  # nested, NumPy: those that the weights fill, no others
    account: ImportReport  # of the weights' names


def read_params(format: str, folder: epath.PathLike, chosen: Settings) -> Imported:
    """Parameters of the model of `chosen` (resolved settings) from a folder of weights.

    Position tables are made to fit: a shorter one keeps the first rows; in a longer one, row i is
    row i mod n of the n imported ones.

    Raises:
      UserError: the weights are of other sizes or parts, or a name or a shape does not fit.
    """
    folder = epath.Path(folder)
    FORMATS[format].check_config(folder / source.CONFIG, source.read_config(folder), chosen)
    tensors = source.read_folder(folder)
    try:
        names = FORMATS[format].name_map(chosen, tensors)
        filled = _filled(names, chosen)
        return Imported(*read_tensors(_resized(tensors, names.slots, chosen), names, filled))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def import_weights(
    format: str,
    folder: epath.PathLike,
    output: epath.PathLike,
    chosen: Settings,
    tokenizer: Tokenizer | None,
) -> Imported:
    """Writes a folder that `init_from` takes.

    Args:
      format: of `FORMATS`.
      folder: of the weights: them, their config.json and, where there is one, their tokenizer;
        local or remote, as `output`.
      output: must not exist, or be empty.
      chosen: settings of the run that is to start from them.
      tokenizer: of that run; None is the weights' own.

    Raises:
      UserError: as `read_params`; the tokenizers differ; there is something in `output`.
    """
    folder = epath.Path(folder)
    remote.check_empty(output)
    own = Tokenizer.load(folder) if holds_tokenizer(folder) else None
    if own and tokenizer and (difference := tokenizer.difference(own)):
        raise UserError(
            f"the run's vocabulary is not that of {folder} ({difference}): set "
            f"--config.data.tokenizer={folder}"
        )
    tokenizer = tokenizer or own
    imported = read_params(format, folder, _resolved(chosen, folder, tokenizer))
    origin = {"format": format, "source": remote.absolute(folder).name}
    origin["tensors"] = len(imported.account.used)
    with remote.whole_folder(output) as partial:
        if tokenizer:
            tokenizer.save(partial)
        write_weights(partial / WEIGHTS, imported.params, origin)
    return imported


def report(imported: Imported) -> str:
    """What became of the names, in words."""
    used, dead = imported.account
    params = flat(imported.params)
    size = sum(array.size for array in params.values())
    return (
        f"loaded {len(used)} tensors into {len(params)} parameters ({size:,} numbers); "
        f"{len(dead)} known names without use{': ' if dead else ''}{', '.join(dead)}"
    )


def _resolved(chosen: Settings, folder: epath.Path, tokenizer: Tokenizer | None) -> Settings:
    """Settings with the sizes that the data tell a run; the weights tell them where no data do."""
    config = source.read_config(folder)
    vocabulary = tokenizer.size if tokenizer else config.get("vocab_size", 0)
    classes = chosen.image.classes or config.get("v_target_size", 1)
    return chosen.resolved(vocabulary=vocabulary, classes=classes)


def _filled(names: NameMap, chosen: Settings) -> dict[str, Any]:
    """The parameters that `names` fill, abstract; UserError where the model has no such."""
    wanted, paths = abstract_params(Network(chosen)), {s.path for s in names.slots.values()}
    if foreign := sorted(paths - wanted.keys()):
        raise UserError(
            f"{names.kind} fills {foreign[0]}, which model.preset {chosen.model.preset!r} has not: "
            "set model.preset to a model that has"
        )
    return nested({path: wanted[path] for path in paths})


def _resized(
    tensors: Mapping[str, np.ndarray], slots: Mapping[str, Slot], chosen: Settings
) -> dict[str, np.ndarray]:
    rows = np.arange(chosen.model.positions)
    return {
        name: tensor[rows % len(tensor)]
        if name in slots and slots[name].path.endswith("/position_table") and len(tensor)
        else tensor
        for name, tensor in tensors.items()
    }
