import dataclasses

import jax
import numpy as np
import pytest
from pretrained import GOLDEN, relative_error
from safetensors.numpy import load_file
from tiny import TINY, tiny_settings

from k3m_jax import settings as s
from k3m_jax.model.layers import KeyMask
from k3m_jax.model.network import Network, flat, nested
from k3m_jax.pretrained.importing import read_params, read_tensors
from k3m_jax.reproductions.baselines.two_streams import Lxmert
from k3m_jax.reproductions.baselines.weights import LXMERT
from k3m_jax.settings import UserError

HF_LXMERT = GOLDEN / "hf_lxmert"


def lxmert_settings(preset="lxmert", **changed) -> s.Settings:
    sizes = s.Encoder(layers=2, width=32, heads=4, mlp=64)
    model = dataclasses.replace(
        TINY.model,
        preset=preset,
        text=sizes,
        image=sizes,
        interactor=s.Interactor(blocks=2, width=32, heads=4, image_mlp=64, text_mlp=64),
        vocabulary=120,
        positions=40,
    )
    image = dataclasses.replace(TINY.image, front_end="regions", feature_dim=40)
    return tiny_settings(**{"model": model, "image": image, **changed})


@pytest.fixture(scope="module")
def imported():
    return read_params("lxmert", HF_LXMERT, lxmert_settings())


def test_the_two_streams_are_theirs(imported):
    with np.load(HF_LXMERT / "io.npz") as arrays:
        golden = dict(arrays)

    pooling = {"absent": np.zeros(32, np.float32)}  # no part of theirs

    @jax.jit
    def streams(params, tokens, text_mask, features, boxes, image_mask):
        model = Lxmert(lxmert_settings(), deterministic=True).bind({"params": params | pooling})
        (text,) = model.text_encoder((tokens, text_mask))
        encoder = model.image_encoder
        image, _ = encoder.layers(encoder.embedding(features, boxes), KeyMask(image_mask))
        return model.interactor(text, image, KeyMask(text_mask), KeyMask(image_mask))

    text, image = streams(
        imported.params,
        golden["input_ids"].astype(np.int32),
        golden["attention_mask"] != 0,
        golden["visual_feats"],
        golden["visual_pos"],
        golden["visual_attention_mask"] != 0,
    )
    assert relative_error(text, golden["language_output"]) < 1e-5
    assert relative_error(image, golden["vision_output"]) < 1e-5


def test_the_names_are_accounted_for_and_can_be_written_again(imported):
    tensors = load_file(HF_LXMERT / "model.safetensors")
    assert imported.ignored == ("pooler.dense.bias", "pooler.dense.weight")
    assert set(imported.used) == tensors.keys() - set(imported.ignored)
    head = jax.tree.map(np.zeros_like, whole_params()["mlm_head"])  # the file has none
    written = LXMERT.views({**imported.params, "mlm_head": head})
    written = {n.removeprefix("lxmert."): x for n, x in written.items() if n.startswith("lxmert.")}
    assert written.keys() == set(imported.used)
    assert all(np.array_equal(tensors[name], x) for name, x in written.items())


def whole_params():
    return nested(Network(lxmert_settings()).abstract_params())


def test_a_pretraining_checkpoint_brings_its_mlm_head(imported):
    bare = load_file(HF_LXMERT / "model.safetensors")
    D, V = 32, 120
    head = {
        "cls.predictions.transform.dense.weight": np.eye(D, dtype=np.float32),
        "cls.predictions.transform.dense.bias": np.zeros(D, np.float32),
        "cls.predictions.transform.LayerNorm.weight": np.ones(D, np.float32),
        "cls.predictions.transform.LayerNorm.bias": np.zeros(D, np.float32),
        "cls.predictions.decoder.weight": bare["embeddings.word_embeddings.weight"],
        "cls.predictions.bias": np.zeros(V, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, D), np.float32),
        "obj_predict_head.decoder_dict.obj.weight": np.zeros((7, D), np.float32),
        "answer_head.logit_fc.0.bias": np.zeros(5, np.float32),
    }
    tensors = {f"lxmert.{name}": x for name, x in bare.items()} | head
    found, _, ignored = read_tensors(LXMERT, tensors, whole_params())
    np.testing.assert_array_equal(found["mlm_head"]["transform"]["kernel"], np.eye(D))
    assert len(ignored) == 5
    ours, theirs = flat(found), flat(imported.params)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (lambda: lxmert_settings("vilbert"), "model.preset is 'vilbert'"),
        (lambda: lxmert_settings(image=TINY.image), "image.front_end=regions"),
        (
            lambda: lxmert_settings(
                model=dataclasses.replace(
                    lxmert_settings().model, text=s.Encoder(layers=3, width=32, heads=4, mlp=64)
                )
            ),
            "set --config.model.text.layers=2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(chosen, said):
    with pytest.raises(UserError, match=said):
        read_params("lxmert", HF_LXMERT, chosen())
