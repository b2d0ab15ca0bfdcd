"""LXMERT (Tan and Bansal, 2019), as Hugging Face folders have it, into the preset `lxmert`."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from k3m_jax.pretrained import configuration
from k3m_jax.pretrained import transformer_names as names_of
from k3m_jax.pretrained.name_map import NameMap, Slot, layer_norm, linear
from k3m_jax.settings import Settings, UserError

KIND = "LXMERT"


def check_config(path: epath.Path, config: Mapping[str, Any], chosen: Settings) -> None:
    """Raises UserError where the model that `config` describes is not the run's."""
    configuration.check_architecture(path, config, KIND, model_type="lxmert", visual_pos_dim=4)
    if chosen.model.preset != "lxmert":
        raise UserError(
            f"{path}: {KIND} is of the preset 'lxmert', and model.preset is "
            f"{chosen.model.preset!r}: take --config=configs/baselines.py:lxmert"
        )
    if chosen.image.front_end != "regions":
        raise UserError(
            f"image.front_end is {chosen.image.front_end!r}, but {KIND} sees a detector's regions: "
            "set --config.image.front_end=regions"
        )
    text, image, inter = chosen.model.text, chosen.model.image, chosen.model.interactor
    depths = [
        ("l_layers", "model.text.layers", text.layers),
        ("r_layers", "model.image.layers", image.layers),
        ("x_layers", "model.interactor.blocks", inter.blocks),
    ]
    same = [
        (theirs, f"model.{group}.{ours}", getattr(sizes, ours))
        for group, sizes, mlps in (
            ("text", text, ("mlp",)),
            ("image", image, ("mlp",)),
            ("interactor", inter, ("text_mlp", "image_mlp")),
        )
        for theirs, ours in (
            ("hidden_size", "width"),
            ("num_attention_heads", "heads"),
            *(("intermediate_size", mlp) for mlp in mlps),
        )
    ]
    features = [("visual_feat_dim", "image.feature_dim", chosen.image.feature_dim)]
    configuration.check_sizes(path, config, depths + same + features)
    configuration.check_vocabulary(path, config, chosen)


def name_map(chosen: Settings, names: Collection[str]) -> NameMap:
    """The names of a file that has `names`.

    Dead are the pooler, the heads on it and those of its detector's objects.
    """
    prefix = names_of.encoder_prefix(names, KIND)
    slots = names_of.text_embedding(prefix, "text_encoder")
    for theirs, ours in (("visn", "feature"), ("box", "box")):
        fc = f"{prefix}encoder.visn_fc"
        slots |= linear(f"{fc}.{theirs}_fc", f"image_encoder/{ours}_map")
        slots |= layer_norm(f"{fc}.{theirs}_layer_norm", f"image_encoder/{ours}_norm")
    for stack, stream, sizes in (
        ("layer", "text", chosen.model.text),
        ("r_layers", "image", chosen.model.image),
    ):
        for i in range(sizes.layers):
            layer = names_of.layer(f"{prefix}encoder.{stack}.{i}", f"{stream}_encoder/layers/layer")
            slots |= names_of.stacked(layer, i)
    for i in range(chosen.model.interactor.blocks):
        layer = _cross_modality(f"{prefix}encoder.x_layers.{i}", "interactor/blocks")
        slots |= names_of.stacked(layer, i)
    heads = prefix.removesuffix("lxmert.")
    if any(name.startswith(f"{heads}cls.predictions.") for name in names):
        slots |= names_of.masked_language_head(f"{heads}cls.predictions", "text_encoder/words")
    dead = (
        rf"{re.escape(prefix)}(pooler\.dense\.\w+|embeddings\.position_ids)"
        rf"|{re.escape(heads)}(cls\.seq_relationship|obj_predict_head|answer_head)\..*"
    )
    return NameMap(KIND, names_of.as_spelled(slots, names), re.compile(dead))


def _cross_modality(theirs: str, ours: str) -> dict[str, Slot]:
    """A cross-modality layer."""
    slots = {
        **_attention(f"{theirs}.visual_attention.att", f"{ours}/cross_attention"),
        **_out(f"{theirs}.visual_attention", f"{ours}/cross_attention", f"{ours}/cross_norm"),
    }
    for letters, stream in (("lang", "text"), ("visn", "image")):
        own, attention = f"{ours}/{stream}", f"{ours}/{stream}/attention"
        slots |= {
            **_attention(f"{theirs}.{letters}_self_att.self", attention),
            **_out(f"{theirs}.{letters}_self_att", attention, f"{own}/attention_norm"),
            **linear(f"{theirs}.{letters}_inter.dense", f"{own}/mlp_in"),
            **linear(f"{theirs}.{letters}_output.dense", f"{own}/mlp_out"),
            **layer_norm(f"{theirs}.{letters}_output.LayerNorm", f"{own}/mlp_norm"),
        }
    return slots


def _attention(theirs: str, ours: str) -> dict[str, Slot]:
    parts = (linear(f"{theirs}.{name}", f"{ours}/{name}") for name in ("query", "key", "value"))
    return {name: slot for part in parts for name, slot in part.items()}


def _out(theirs: str, ours: str, norm: str) -> dict[str, Slot]:
    return {
        **linear(f"{theirs}.output.dense", f"{ours}/out", inputs=2),
        **layer_norm(f"{theirs}.output.LayerNorm", norm),
    }
