"""The public PyTorch release of K3M: its configuration and the names of its parameters."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from k3m_jax import settings
from k3m_jax.pretrained import configuration
from k3m_jax.pretrained import transformer_names as names_of
from k3m_jax.pretrained.name_map import NameMap, Slot, layer_norm, linear
from k3m_jax.settings import Settings, UserError

KIND = "a released K3M"

WORDS = f"bert_tri.{names_of.WORDS}"

# Never part of a forward pass.
DEAD = r".*\.q_dense[12]\..*|bert_tri\.[tv]_pooler\..*|map_individual_to_bi\..*"
# Part of some modes of fusion alone.
SCORES, SOFT = r"|score_(self|cross[12])_.*", r"|soft_.*"


def model_settings(path: epath.Path, config: Mapping[str, Any], fusion: str) -> settings.Model:
    """The model that a release's `config.json` describes.

    Args:
      path: of the file, for error messages.
      config: as read from the file; dropout is left to the caller.
      fusion: mode; the release keeps it elsewhere.

    Raises:
      UserError: a key is lacking, or it describes another architecture.
    """

    def get(key: str) -> Any:
        if key not in config:
            raise UserError(f"{path} has no {key}: it is not the configuration of {KIND}")
        return config[key]

    configuration.check_architecture(path, config, KIND, v_hidden_act="gelu")
    blocks = len(get("t_biattention_id"))
    return settings.Model(
        preset="release",
        text=settings.Encoder(
            layers=get("num_hidden_layers"),
            width=get("hidden_size"),
            heads=get("num_attention_heads"),
            mlp=get("intermediate_size"),
        ),
        image=settings.Encoder(
            layers=get("v_num_hidden_layers"),
            width=get("v_hidden_size"),
            heads=get("v_num_attention_heads"),
            mlp=get("v_intermediate_size"),
        ),
        interactor=settings.Interactor(
            blocks=blocks,
            width=get("bi_hidden_size"),
            heads=get("bi_num_attention_heads"),
            image_mlp=get("v_intermediate_size"),
            text_mlp=get("intermediate_size"),
            text_layers=tuple(get("t_biattention_id")),
            image_layers=tuple(get("v_biattention_id")),
        ),
        fusion=settings.Fusion(mode=fusion, temperature_start=1.0, temperature_end=1.0),
        structure=settings.RELEASED_STRUCTURE,
        vocabulary=get("vocab_size"),
        positions=get("max_position_embeddings"),
        dropout=0.0,
        dtype="float32",
    )


def check_config(path: epath.Path, config: Mapping[str, Any], chosen: Settings) -> None:
    """Raises UserError where the model that `config` describes is not the run's."""
    if chosen.model.preset != "release":
        raise UserError(
            f"{path}: {KIND} is of the preset 'release': take --config=configs/k3m_release.py"
        )
    told = dataclasses.asdict(model_settings(path, config, chosen.model.fusion.mode))
    ours = dataclasses.asdict(chosen.model)
    pairs = [
        (f"{part}.{key}", theirs, f"model.{part}.{key}", ours[part][key])
        for part in ("text", "image", "interactor")
        for key, theirs in told[part].items()
    ]
    if chosen.image.front_end == "regions":
        width = chosen.image.feature_dim
        theirs = config.get("v_feature_size", width)
        pairs.append(("v_feature_size", theirs, "image.feature_dim", width))
    configuration.check_pairs(path, pairs)
    configuration.check_vocabulary(path, config, chosen)


def name_map(chosen: Settings, names: Collection[str] = (WORDS,)) -> NameMap:
    """The names of a state dict that has `names`, or the release's own, and their places in ours.

    Raises:
      UserError: there is no word table among them.
    """
    model = chosen.model
    prefix = names_of.encoder_prefix(names, KIND)
    wrapper = prefix.removesuffix("bert_tri.")
    slots, dead = _slots(model)
    slots = names_of.as_spelled({f"{wrapper}{name}": slot for name, slot in slots.items()}, names)
    return NameMap(KIND, slots, re.compile(f"{re.escape(wrapper)}({dead})"))


def _slots(model: settings.Model) -> tuple[dict[str, Slot], str]:
    """By the names that the release's own code gives; the pattern of dead names."""
    slots, dead = _embeddings() | _heads() | _structure(), DEAD
    encoder = "bert_tri.encoder_tri"
    for theirs, ours, sizes in (
        ("layer", "text_encoder", model.text),
        ("v_layer", "image_encoder", model.image),
    ):
        for i in range(sizes.layers):
            layer = names_of.layer(f"{encoder}.{theirs}.{i}", f"{ours}/layers/layer")
            slots |= names_of.stacked(layer, i)
    for theirs, ours in (
        ("c_layer", "title_image"),
        ("c_layer_pv_v", "knowledge_image"),
        ("c_layer_pv_t", "title_knowledge"),
    ):
        for k in range(model.interactor.blocks):
            block = names_of.co_attention(f"{encoder}.{theirs}.{k}", f"{ours}/blocks")
            slots |= names_of.stacked(block, k)
    mode = model.fusion.mode
    for theirs, ours in (("v", "image"), ("t", "title"), ("pv", "knowledge")):
        if mode in ("hard", "soft"):
            slots |= _scores(theirs, f"{ours}_fusion/score")
        if mode == "soft":
            slots |= linear(f"soft_{theirs}", f"{ours}_fusion/out", inputs=2)
    if mode in ("mean", "interactive"):
        dead += SCORES
    if mode != "soft":
        dead += SOFT
    return slots, dead


def _embeddings() -> dict[str, Slot]:
    return {
        **names_of.text_embedding("bert_tri.", "text_encoder"),
        **names_of.image_embedding("bert_tri.v_embeddings", "image_encoder"),
    }


def _scores(theirs: str, ours: str) -> dict[str, Slot]:
    """Three Linears of all three features; in ours one kernel [3, W, 3, W]."""
    slots = {}
    for k, which in enumerate(("self", "cross1", "cross2")):
        name = f"score_{which}_{theirs}"
        slots[f"{name}.weight"] = Slot(f"{ours}/kernel", 2, axis=2, index=k)
        slots[f"{name}.bias"] = Slot(f"{ours}/bias", 0, index=k)
    return slots


def _structure() -> dict[str, Slot]:
    return {
        **linear("struc_w1", "structure/w1", inputs=2),
        "struc_w2.weight": Slot("structure/w2"),
        "struc_w2.bias": Slot("structure/w2_bias", 0),
        "struc_w3.weight": Slot("structure/out", 2),
        "struc_w3.bias": Slot("structure/out_bias", 0),
        **linear("struc_w_loss", "pair_head"),
    }


def _heads() -> dict[str, Slot]:
    language = names_of.masked_language_head("cls.predictions", "text_encoder/words")
    del language["cls.predictions.decoder.bias"]  # of newer code than the release
    return {
        **language,
        **linear("cls.imagePredictions.transform.dense", "mom_head/transform"),
        **layer_norm("cls.imagePredictions.transform.LayerNorm", "mom_head/norm"),
        **linear("cls.imagePredictions.decoder", "mom_head/decoder"),
        **linear("map_bi_to_individual", "image_map"),
        **linear("cls.seq_relationship", "match_head"),
    }
