"""What the `config.json` beside someone's weights says, held against the settings of a run."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from k3m_jax import settings
from k3m_jax.settings import Settings, UserError

# (their key, our setting, its value)
Size = tuple[str, str, Any]
# (how they call it, its value, our setting, its value)
Pair = tuple[str, Any, str, Any]

# What the layers here are made for. A key that is left out says the same.
ARCHITECTURE = {
    "hidden_act": "gelu",  # the exact one, with erf
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
}


def check_architecture(path: epath.Path, config: Mapping[str, Any], kind: str, **more) -> None:
    """Raises UserError where a model computes something that ours does not; `more` adds keys."""
    for key, only in (ARCHITECTURE | more).items():
        if (found := config.get(key, only)) != only:
            raise UserError(
                f"{path}: {key} is {found!r}, but {kind} here has {only!r}: take other weights"
            )


def check_sizes(path: epath.Path, config: Mapping[str, Any], sizes: Iterable[Size]) -> None:
    """Raises UserError where a size is lacking or is not the run's."""
    pairs = []
    for key, setting, value in sizes:
        if key not in config:
            raise UserError(f"{path} has no {key}: these are not weights of that format")
        pairs.append((key, config[key], setting, value))
    check_pairs(path, pairs)


def check_pairs(path: epath.Path, pairs: Iterable[Pair]) -> None:
    """Raises UserError where any two differ, with all that is to be set."""
    told, needed = [], []
    for key, theirs, setting, ours in pairs:
        if theirs != ours:
            told.append(f"{key} is {theirs}, but {setting} is {ours}")
            needed.append(shlex.quote(f"--config.{setting}={theirs}"))
    if told:
        raise UserError(f"{path}: {'; '.join(told)}: set {' '.join(needed)}")


def check_vocabulary(path: epath.Path, config: Mapping[str, Any], chosen: Settings) -> None:
    """Raises UserError where the word tables have different numbers of rows."""
    found = config.get("vocab_size")
    if found != chosen.model.vocabulary:
        raise UserError(
            f"{path}: vocab_size is {found}, but the run's tokenizer has "
            f"{chosen.model.vocabulary} tokens: name that of the weights, --config.data.tokenizer="
            "FOLDER"
        )


def encoder_sizes(prefix: str, setting: str, sizes: settings.Encoder) -> list[Size]:
    """The sizes of a stack of layers; `prefix` is "" or "v_"."""
    return [
        (f"{prefix}num_hidden_layers", f"{setting}.layers", sizes.layers),
        (f"{prefix}hidden_size", f"{setting}.width", sizes.width),
        (f"{prefix}num_attention_heads", f"{setting}.heads", sizes.heads),
        (f"{prefix}intermediate_size", f"{setting}.mlp", sizes.mlp),
    ]
