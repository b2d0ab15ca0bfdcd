"""BERT of any size (Devlin et al., 2019), as Hugging Face folders have it, into the text encoder.

Its MLM head is taken too where the file has it.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from k3m_jax.pretrained import configuration
from k3m_jax.pretrained import transformer_names as names_of
from k3m_jax.pretrained.name_map import NameMap, Slot
from k3m_jax.settings import Settings

KIND = "BERT"


def check_config(path: epath.Path, config: Mapping[str, Any], chosen: Settings) -> None:
    """Raises UserError where the model that `config` describes is not the run's text encoder."""
    configuration.check_architecture(path, config, KIND, model_type="bert")
    configuration.check_sizes(
        path, config, configuration.encoder_sizes("", "model.text", chosen.model.text)
    )
    configuration.check_vocabulary(path, config, chosen)


def name_map(chosen: Settings, names: Collection[str]) -> NameMap:
    """The names of a file that has `names`; what else BERT can have is dead."""
    prefix = names_of.encoder_prefix(names, KIND)
    dead = rf"{re.escape(prefix)}(pooler\.dense\.\w+|embeddings\.position_ids)"
    slots, head_dead = text_stream(chosen, names, prefix)
    return NameMap(KIND, names_of.as_spelled(slots, names), re.compile(f"{dead}|{head_dead}"))


def text_stream(
    chosen: Settings, names: Collection[str], prefix: str
) -> tuple[dict[str, Slot], str]:
    """The slots of text encoder and MLM head, and the pattern of the other head's dead names."""
    embedding = "text_encoder"
    slots = names_of.text_embedding(prefix, embedding)
    for i in range(chosen.model.text.layers):
        layer = names_of.layer(f"{prefix}encoder.layer.{i}", "text_encoder/layers/layer")
        slots |= names_of.stacked(layer, i)
    heads = prefix.removesuffix("bert.") + "cls."
    if any(name.startswith(f"{heads}predictions.") for name in names):
        slots |= names_of.masked_language_head(f"{heads}predictions", f"{embedding}/words")
    return slots, rf"{re.escape(heads)}(bi_)?seq_relationship\.\w+"
