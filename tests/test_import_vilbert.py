"""ViLBERT's names, held against the layers of its paper written out in NumPy on those names."""

import dataclasses
import json
import math

import numpy as np
import pytest
from pretrained import FLOAT32, relative_error
from safetensors.numpy import save_file
from tiny import TINY, tiny_settings

from k3m_jax import settings as s
from k3m_jax.model.encoders import ImageEncoder
from k3m_jax.model.interaction import Interactor
from k3m_jax.model.layers import KeyMask
from k3m_jax.pretrained.importing import read_params
from k3m_jax.settings import UserError

# Text D, image Dv, co-attention W, features F: no two alike.
D, DV, W, F, V, POSITIONS = 24, 16, 32, 10, 50, 20
MLP, V_MLP, LAYERS, V_LAYERS, BLOCKS, HEADS = 40, 28, 3, 2, 2, 4
CONFIG = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "hidden_act": "gelu",
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "v_feature_size": F,
    "v_target_size": 9,
    "v_hidden_size": DV,
    "v_num_hidden_layers": V_LAYERS,
    "v_num_attention_heads": HEADS,
    "v_intermediate_size": V_MLP,
    "bi_hidden_size": W,
    "bi_num_attention_heads": HEADS,
    "v_biattention_id": [0, 1],
    "t_biattention_id": [1, 2],
}


def shapes():
    """Every tensor of a tiny ViLBERT, as PyTorch has it."""
    found = {}

    def linear(name, out, inputs):
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, inputs), (out,)

    def norm(name, width):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    text, image, encoder = "bert.embeddings", "bert.v_embeddings", "bert.encoder"
    found[f"{text}.word_embeddings.weight"] = (V, D)
    found[f"{text}.position_embeddings.weight"] = (POSITIONS, D)
    found[f"{text}.token_type_embeddings.weight"] = (2, D)
    norm(f"{text}.LayerNorm", D)
    linear(f"{image}.image_embeddings", DV, F)
    linear(f"{image}.image_location_embeddings", DV, 5)
    norm(f"{image}.LayerNorm", DV)
    for stack, count, width, mlp in (("layer", LAYERS, D, MLP), ("v_layer", V_LAYERS, DV, V_MLP)):
        for i in range(count):
            layer = f"{encoder}.{stack}.{i}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                linear(f"{layer}.attention.{part}", width, width)
            norm(f"{layer}.attention.output.LayerNorm", width)
            linear(f"{layer}.intermediate.dense", mlp, width)
            linear(f"{layer}.output.dense", width, mlp)
            norm(f"{layer}.output.LayerNorm", width)
    for k in range(BLOCKS):
        block = f"{encoder}.c_layer.{k}"
        for side, letter, width, mlp in ((1, "v", DV, V_MLP), (2, "t", D, MLP)):
            for part in ("query", "key", "value"):
                linear(f"{block}.biattention.{part}{side}", W, width)
            linear(f"{block}.biOutput.dense{side}", width, W)
            linear(f"{block}.biOutput.q_dense{side}", width, W)
            norm(f"{block}.biOutput.LayerNorm{side}", width)
            linear(f"{block}.{letter}_intermediate.dense", mlp, width)
            linear(f"{block}.{letter}_output.dense", width, mlp)
            norm(f"{block}.{letter}_output.LayerNorm", width)
    linear("bert.t_pooler.dense", W, D)
    linear("bert.v_pooler.dense", W, DV)
    linear("cls.predictions.transform.dense", D, D)
    norm("cls.predictions.transform.LayerNorm", D)
    found["cls.predictions.bias"] = (V,)
    linear("cls.bi_seq_relationship", 2, W)
    linear("cls.imagePredictions.transform.dense", DV, DV)
    norm("cls.imagePredictions.transform.LayerNorm", DV)
    linear("cls.imagePredictions.decoder", 9, DV)
    return found


def fitting(**model):
    changed = {
        "text": s.Encoder(LAYERS, D, HEADS, MLP),
        "image": s.Encoder(V_LAYERS, DV, HEADS, V_MLP),
        "interactor": s.Interactor(BLOCKS, W, HEADS, V_MLP, MLP),
        "vocabulary": V,
        "positions": POSITIONS,
    }
    return tiny_settings(
        model=dataclasses.replace(TINY.model, **(changed | model)),
        image=s.Image(front_end="regions", regions=4, feature_dim=F, classes=3, top_classes=3),
    )


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    return {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in shapes().items()}


@pytest.fixture(scope="module")
def folder(tensors, tmp_path_factory):
    return write(tmp_path_factory.mktemp("vilbert"), tensors)


@pytest.fixture(scope="module")
def imported(folder):
    return read_params("vilbert", folder, fitting())


def write(folder, tensors, **config):
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def linear(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors[f"{name}.bias"]


def norm(tensors, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def feed_forward(tensors, inner, outer, x):
    hidden = linear(tensors, inner, x)
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return norm(tensors, f"{outer}.LayerNorm", linear(tensors, f"{outer}.dense", hidden) + x)


def attend(q, k, v):
    """[S, W] each, all heads side by side."""
    parts = []
    for qh, kh, vh in zip(*(np.split(x, HEADS, -1) for x in (q, k, v)), strict=True):
        scores = np.exp(qh @ kh.T / math.sqrt(qh.shape[-1]))
        parts.append(scores / scores.sum(-1, keepdims=True) @ vh)
    return np.concatenate(parts, -1)


def test_the_image_stream_is_theirs(tensors, imported):
    rng = np.random.default_rng(1)
    features, boxes = rng.normal(size=(4, F)), rng.random((5, 5))
    name = "bert.v_embeddings"
    whole = np.concatenate([features.mean(0, keepdims=True), features])
    x = linear(tensors, f"{name}.image_embeddings", whole)
    x = norm(
        tensors,
        f"{name}.LayerNorm",
        x + linear(tensors, f"{name}.image_location_embeddings", boxes),
    )
    for i in range(V_LAYERS):
        layer = f"bert.encoder.v_layer.{i}"
        qkv = (linear(tensors, f"{layer}.attention.self.{p}", x) for p in ("query", "key", "value"))
        out = linear(tensors, f"{layer}.attention.output.dense", attend(*qkv))
        x = norm(tensors, f"{layer}.attention.output.LayerNorm", out + x)
        x = feed_forward(tensors, f"{layer}.intermediate.dense", f"{layer}.output", x)
    encoder = ImageEncoder(fitting().model.image, FLOAT32)
    batch = {
        "region_inputs": features[None].astype(np.float32),
        "region_boxes": boxes[None].astype(np.float32),
        "region_mask": np.ones((1, 5), bool),
    }
    ours = encoder.apply({"params": imported.params["image_encoder"]}, batch)
    assert relative_error(ours[0], x) < 1e-5


def test_the_co_attention_is_theirs(tensors, imported):
    rng = np.random.default_rng(2)
    text, image = rng.normal(size=(6, D)), rng.normal(size=(5, DV))
    arguments = [x[None].astype(np.float32) for x in (text, image)]
    for k in range(BLOCKS):
        block = f"bert.encoder.c_layer.{k}"
        parts = {
            f"{part}{side}": linear(tensors, f"{block}.biattention.{part}{side}", x)
            for part in ("query", "key", "value")
            for side, x in ((1, image), (2, text))
        }
        seen_by_text = attend(parts["query2"], parts["key1"], parts["value1"])
        seen_by_image = attend(parts["query1"], parts["key2"], parts["value2"])
        streams = []
        for side, letter, x, seen in ((2, "t", text, seen_by_text), (1, "v", image, seen_by_image)):
            out = linear(tensors, f"{block}.biOutput.dense{side}", seen)
            x = norm(tensors, f"{block}.biOutput.LayerNorm{side}", out + x)
            inner, outer = f"{block}.{letter}_intermediate.dense", f"{block}.{letter}_output"
            streams.append(feed_forward(tensors, inner, outer, x))
        text, image = streams
    interactor = Interactor(fitting().model.interactor, FLOAT32)
    masks = KeyMask(np.ones((1, 6), bool)), KeyMask(np.ones((1, 5), bool))
    ours = interactor.apply({"params": imported.params["interactor"]}, *arguments, *masks)
    assert relative_error(ours[0][0], text) < 1e-5
    assert relative_error(ours[1][0], image) < 1e-5


def test_the_names_are_accounted_for(tensors, imported):
    _, used, ignored = imported
    assert len(used) + len(ignored) == len(tensors)
    assert {name.rsplit(".", 1)[0] for name in ignored} == {
        "bert.t_pooler.dense",
        "bert.v_pooler.dense",
        "cls.bi_seq_relationship",
        "cls.imagePredictions.decoder",
        "cls.imagePredictions.transform.LayerNorm",
        "cls.imagePredictions.transform.dense",
        *(f"bert.encoder.c_layer.{k}.biOutput.q_dense{n}" for k in range(BLOCKS) for n in (1, 2)),
    }
    whole = {"text_encoder", "image_encoder", "interactor", "mlm_head"}
    assert imported.params.keys() == whole


def test_what_does_not_fit_is_reported(folder, tensors, tmp_path):
    for changed, said in (
        ({"interactor": s.Interactor(1, W, HEADS, V_MLP, MLP)}, "model.interactor.blocks=2"),
        ({"interactor": s.Interactor(BLOCKS, 64, HEADS, V_MLP, MLP)}, "interactor.width=32"),
        ({"image": s.Encoder(1, DV, HEADS, V_MLP)}, "set --config.model.image.layers=2"),
    ):
        with pytest.raises(UserError, match=said):
            read_params("vilbert", folder, fitting(**changed))
    patches = dataclasses.replace(fitting(), image=TINY.image)
    with pytest.raises(UserError, match=r"--config\.image\.front_end=regions"):
        read_params("vilbert", folder, patches)
    with pytest.raises(UserError, match=r"'image_encoder', .* set model\.preset"):
        read_params("vilbert", folder, fitting(preset="bert"))
    linked = "bert.encoder.v_layer.0.attention.self.dyLinear_q.weight"
    more = write(tmp_path, tensors | {linked: np.zeros((DV, D), np.float32)})
    with pytest.raises(UserError, match=f"{linked} is no name of ViLBERT"):
        read_params("vilbert", more, fitting())
