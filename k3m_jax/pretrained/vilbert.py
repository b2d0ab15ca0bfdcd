"""ViLBERT's text stream, image stream and co-attention (Lu et al., 2019), by its release's names.

ViLBERT runs layers and co-attention in turns, K3M all layers before the interactor: so what is
imported begins from ViLBERT's parameters, but does not compute what ViLBERT computes.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from k3m_jax.pretrained import bert, configuration
from k3m_jax.pretrained import transformer_names as names_of
from k3m_jax.pretrained.name_map import NameMap
from k3m_jax.settings import Settings, UserError

KIND = "ViLBERT"


def check_config(path: epath.Path, config: Mapping[str, Any], chosen: Settings) -> None:
    """Raises UserError where the model that `config` describes does not fit the run's."""
    configuration.check_architecture(path, config, KIND, v_hidden_act="gelu")
    if chosen.image.front_end != "regions":
        raise UserError(
            f"image.front_end is {chosen.image.front_end!r}, but {KIND} sees a detector's regions: "
            "set --config.image.front_end=regions"
        )
    model, inter = chosen.model, chosen.model.interactor
    blocks = config.get("v_biattention_id", ())
    sizes = [
        *configuration.encoder_sizes("", "model.text", model.text),
        *configuration.encoder_sizes("v_", "model.image", model.image),
        ("v_feature_size", "image.feature_dim", chosen.image.feature_dim),
        ("v_biattention_id", "model.interactor.blocks", inter.blocks),
        ("bi_hidden_size", "model.interactor.width", inter.width),
        ("bi_num_attention_heads", "model.interactor.heads", inter.heads),
        ("v_intermediate_size", "model.interactor.image_mlp", inter.image_mlp),
        ("intermediate_size", "model.interactor.text_mlp", inter.text_mlp),
    ]
    configuration.check_sizes(path, {**config, "v_biattention_id": len(blocks)}, sizes)
    configuration.check_vocabulary(path, config, chosen)


def name_map(chosen: Settings, names: Collection[str]) -> NameMap:
    """The names of a file that has `names`.

    Dead are the poolers and the heads on them, the classes of its detector, and the tokens that
    name a task.
    """
    prefix = names_of.encoder_prefix(names, KIND)
    slots, head_dead = bert.text_stream(chosen, names, prefix)
    slots |= names_of.image_embedding(f"{prefix}v_embeddings", "image_encoder")
    for i in range(chosen.model.image.layers):
        layer = names_of.layer(f"{prefix}encoder.v_layer.{i}", "image_encoder/layers/layer")
        slots |= names_of.stacked(layer, i)
    interactor = "title_image" if chosen.model.preset == "release" else "interactor"
    for k in range(chosen.model.interactor.blocks):
        block = names_of.co_attention(f"{prefix}encoder.c_layer.{k}", f"{interactor}/blocks")
        slots |= names_of.stacked(block, k)
    wrapper = re.escape(prefix.removesuffix("bert."))
    own = (
        rf"{re.escape(prefix)}([tv]_pooler\.dense\.\w+|embeddings\.(position_ids|task_embeddings"
        r"\.weight)|encoder\.c_layer\.\d+\.biOutput\.q_dense[12]\.\w+)"
    )
    tasks = rf"{wrapper}(cls\.imagePredictions|vil_\w+|vision_logit|linguisic_logit)\..*"
    return NameMap(
        KIND, names_of.as_spelled(slots, names), re.compile(f"{own}|{tasks}|{head_dead}")
    )
