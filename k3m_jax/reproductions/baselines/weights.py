"""ViLBERT and LXMERT: their `config.json` against a run's settings, and their names."""

from etils import epath

from k3m_jax.model.network import Params
from k3m_jax.pretrained.importing import (
    MLM_HEAD,
    Config,
    Format,
    Tensors,
    attention,
    check_architecture,
    check_sizes,
    encoder_sizes,
    feed_forward,
    layer,
    layer_norm,
    linear,
    stacked,
    text_stream,
)
from k3m_jax.settings import Settings, UserError


def _check_regions(kind: str, chosen: Settings) -> None:
    if chosen.image.front_end != "regions":
        raise UserError(
            f"image.front_end is {chosen.image.front_end!r}, but {kind} sees a detector's regions: "
            "set --config.image.front_end=regions"
        )


def _check_vilbert(path: epath.Path, config: Config, chosen: Settings) -> None:
    check_architecture(path, config, v_hidden_act="gelu")
    _check_regions("ViLBERT", chosen)
    model, inter = chosen.model, chosen.model.interactor
    sizes = [
        *encoder_sizes("", "model.text", model.text),
        *encoder_sizes("v_", "model.image", model.image),
        ("v_feature_size", "image.feature_dim", chosen.image.feature_dim),
        ("v_biattention_id", "model.interactor.blocks", inter.blocks),
        ("bi_hidden_size", "model.interactor.width", inter.width),
        ("bi_num_attention_heads", "model.interactor.heads", inter.heads),
        ("v_intermediate_size", "model.interactor.image_mlp", inter.image_mlp),
        ("intermediate_size", "model.interactor.text_mlp", inter.text_mlp),
    ]
    blocks = len(config.get("v_biattention_id", ()))
    check_sizes(path, {**config, "v_biattention_id": blocks}, chosen, sizes)


def vilbert_views(params: Params) -> Tensors:
    """Views of ViLBERT's tensors."""
    return {
        **text_stream("bert.", params),
        **image_stream("bert.v_embeddings", "bert.encoder.v_layer", params["image_encoder"]),
        **stacked(co_attention, "bert.encoder.c_layer", params["interactor"]["blocks"]),
    }


def image_stream(embedding: str, layers: str, ours: Params) -> Tensors:
    """Views of ViLBERT's image encoder: maps of features and boxes, LayerNorm, and layers."""
    return {
        **linear(f"{embedding}.image_embeddings", ours["feature_map"]),
        **linear(f"{embedding}.image_location_embeddings", ours["box_map"]),
        **layer_norm(f"{embedding}.LayerNorm", ours["norm"]),
        **stacked(layer, layers, ours["layers"]["layer"]),
    }


def co_attention(theirs: str, ours: Params) -> Tensors:
    """Views of a co-attention block: 1 and v are the image's side, 2 and t the text's."""
    views = {}
    for side, own, other, letter in (("image", 1, 2, "v"), ("text", 2, 1, "t")):
        half = ours[side]
        views |= {
            **linear(f"{theirs}.biattention.query{own}", half["attention"]["query"]),
            **linear(f"{theirs}.biattention.key{other}", half["attention"]["key"]),
            **linear(f"{theirs}.biattention.value{other}", half["attention"]["value"]),
            **linear(f"{theirs}.biOutput.dense{own}", half["attention"]["out"], inputs=2),
            **layer_norm(f"{theirs}.biOutput.LayerNorm{own}", half["attention_norm"]),
            **feed_forward(f"{theirs}.{letter}_intermediate", f"{theirs}.{letter}_output", half),
        }
    return views


# ViLBERT's release (Lu et al., 2019), for a model with K3M's encoders and interactor. It alternates
# layers and co-attention, K3M runs all layers first: the imported parameters are a start and do not
# compute what ViLBERT computes.
VILBERT = Format(
    "ViLBERT",
    _check_vilbert,
    vilbert_views,
    r"(bert\.)?([tv]_pooler\.dense\.\w+|embeddings\.(position_ids|task_embeddings\.weight)"
    r"|encoder\.c_layer\.\d+\.biOutput\.q_dense[12]\.\w+)"
    r"|cls\.(bi_)?seq_relationship\.\w+"
    r"|(cls\.imagePredictions|vil_\w+|vision_logit|linguisic_logit)\..*",
    MLM_HEAD,
)


def _check_lxmert(path: epath.Path, config: Config, chosen: Settings) -> None:
    check_architecture(path, config, model_type="lxmert", visual_pos_dim=4)
    if chosen.model.preset != "lxmert":
        raise UserError(
            f"{path}: LXMERT is of the preset 'lxmert', and model.preset is "
            f"{chosen.model.preset!r}: take --config=configs/baselines.py:lxmert"
        )
    _check_regions("LXMERT", chosen)
    text, image, inter = chosen.model.text, chosen.model.image, chosen.model.interactor
    sizes = [
        ("l_layers", "model.text.layers", text.layers),
        ("r_layers", "model.image.layers", image.layers),
        ("x_layers", "model.interactor.blocks", inter.blocks),
        ("intermediate_size", "model.text.mlp", text.mlp),
        ("intermediate_size", "model.image.mlp", image.mlp),
        ("intermediate_size", "model.interactor.text_mlp", inter.text_mlp),
        ("intermediate_size", "model.interactor.image_mlp", inter.image_mlp),
        ("visual_feat_dim", "image.feature_dim", chosen.image.feature_dim),
    ]
    for group, part in (("text", text), ("image", image), ("interactor", inter)):
        sizes.append(("hidden_size", f"model.{group}.width", part.width))
        sizes.append(("num_attention_heads", f"model.{group}.heads", part.heads))
    check_sizes(path, config, chosen, sizes)


def _lxmert_views(params: Params) -> Tensors:
    image, encoder = params["image_encoder"], "lxmert.encoder"
    views = text_stream("lxmert.", params)
    for theirs, ours in (("visn", "feature"), ("box", "box")):
        views |= linear(f"{encoder}.visn_fc.{theirs}_fc", image[f"{ours}_map"])
        views |= layer_norm(f"{encoder}.visn_fc.{theirs}_layer_norm", image[f"{ours}_norm"])
    views |= stacked(layer, f"{encoder}.r_layers", image["layers"]["layer"])
    return views | stacked(_cross_modality, f"{encoder}.x_layers", params["interactor"]["blocks"])


def _cross_modality(theirs: str, ours: Params) -> Tensors:
    """Views of a cross-modality layer."""
    cross = f"{theirs}.visual_attention"
    views = attention(
        f"{cross}.att", f"{cross}.output", ours["cross_attention"], ours["cross_norm"]
    )
    for letters, stream in (("lang", "text"), ("visn", "image")):
        own, name = ours[stream], f"{theirs}.{letters}"
        maps, out = f"{name}_self_att.self", f"{name}_self_att.output"
        views |= attention(maps, out, own["attention"], own["attention_norm"])
        views |= feed_forward(f"{name}_inter", f"{name}_output", own)
    return views


# LXMERT (Tan and Bansal, 2019), as Hugging Face folders have it, for the preset `lxmert`.
LXMERT = Format(
    "LXMERT",
    _check_lxmert,
    _lxmert_views,
    r"(lxmert\.)?(pooler\.dense\.\w+|embeddings\.position_ids)"
    r"|(cls\.seq_relationship|obj_predict_head|answer_head)\..*",
    MLM_HEAD,
)
