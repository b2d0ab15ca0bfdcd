"""The public PyTorch release of K3M: its configuration and the names of its parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from k3m_jax import settings
from k3m_jax.model.network import Params
from k3m_jax.pretrained import importing
from k3m_jax.pretrained.importing import Format, Tensors, layer_norm, linear, stacked
from k3m_jax.reproductions.baselines.weights import co_attention, image_stream
from k3m_jax.reproductions.release.validation import RELEASED_STRUCTURE
from k3m_jax.settings import Settings, UserError

KIND = "a released K3M"

# Never part of a forward pass, or of some modes of fusion alone.
IGNORED = (
    r".*\.q_dense[12]\..*|bert_tri\.[tv]_pooler\..*|map_individual_to_bi\..*"
    r"|score_(self|cross[12])_.*|soft_.*"
)


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

    importing.check_architecture(path, config, v_hidden_act="gelu")
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
        structure=RELEASED_STRUCTURE,
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
    described = dataclasses.asdict(model_settings(path, config, chosen.model.fusion.mode))
    ours = dataclasses.asdict(chosen.model)
    parts = ("text", "image", "interactor")
    theirs = {f"{part}.{key}": x for part in parts for key, x in described[part].items()}
    sizes = [(f"{p}.{key}", f"model.{p}.{key}", x) for p in parts for key, x in ours[p].items()]
    if chosen.image.front_end == "regions":
        width = chosen.image.feature_dim
        theirs["v_feature_size"] = config.get("v_feature_size", width)
        sizes.append(("v_feature_size", "image.feature_dim", width))
    importing.check_sizes(path, {**config, **theirs}, chosen, sizes)


def views(params: Params) -> Tensors:
    """Views of the tensors, by the names in the release's own code."""
    encoder = "bert_tri.encoder_tri"
    texts = importing.text_stream("bert_tri.", params)
    del texts["cls.predictions.decoder.bias"]  # of newer code than the release
    found = {
        # The layers are called otherwise than BERT's.
        **{name.replace("bert_tri.encoder.", f"{encoder}."): x for name, x in texts.items()},
        **image_stream("bert_tri.v_embeddings", f"{encoder}.v_layer", params["image_encoder"]),
        **stacked(co_attention, f"{encoder}.c_layer", params["title_image"]["blocks"]),
        **stacked(co_attention, f"{encoder}.c_layer_pv_v", params["knowledge_image"]["blocks"]),
        **stacked(co_attention, f"{encoder}.c_layer_pv_t", params["title_knowledge"]["blocks"]),
        **_heads(params),
        **_structure(params["structure"]),
    }
    for theirs, ours in (("v", "image"), ("t", "title"), ("pv", "knowledge")):
        fusion = params.get(f"{ours}_fusion", {})  # some modes have no parameters
        if "score" in fusion:
            found |= _scores(theirs, fusion["score"])
        if "out" in fusion:
            found |= linear(f"soft_{theirs}", fusion["out"], inputs=2)
    return found


def _scores(theirs: str, ours: Params) -> Tensors:
    """Three Linears of all three features; in ours one kernel [3, W, 3, W]."""
    found = {}
    for k, which in enumerate(("self", "cross1", "cross2")):
        one = {"kernel": ours["kernel"][:, :, k], "bias": ours["bias"][k]}
        found |= linear(f"score_{which}_{theirs}", one, inputs=2)
    return found


def _structure(ours: Params) -> Tensors:
    out = {"kernel": ours["out"], "bias": ours["out_bias"]}
    return {
        **linear("struc_w1", ours["w1"], inputs=2),
        "struc_w2.weight": ours["w2"],
        "struc_w2.bias": ours["w2_bias"].reshape(-1),
        **linear("struc_w3", out, inputs=2),
    }


def _heads(params: Params) -> Tensors:
    regions = params["mom_head"]
    return {
        **linear("cls.imagePredictions.transform.dense", regions["transform"]),
        **layer_norm("cls.imagePredictions.transform.LayerNorm", regions["norm"]),
        **linear("cls.imagePredictions.decoder", regions["decoder"]),
        **linear("map_bi_to_individual", params["image_map"]),
        **linear("cls.seq_relationship", params["match_head"]),
        **linear("struc_w_loss", params["pair_head"]),
    }


RELEASE = Format(KIND, check_config, views, IGNORED)
