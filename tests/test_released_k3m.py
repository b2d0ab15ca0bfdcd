"""The `release` preset beyond its golden values: any schedule, any batch, names both ways."""

import dataclasses
import json
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from etils import epath
from random_batch import random_batch
from safetensors.numpy import load_file
from tiny import TINY, released, tiny_settings

from k3m_jax import objectives
from k3m_jax import settings as s
from k3m_jax.model.interaction import CoAttentionBlock
from k3m_jax.model.layers import Numerics, SelfAttentionLayer, scan_layers
from k3m_jax.model.network import Network, flat, nested, params_and_axes
from k3m_jax.objectives.base import safe_ratio
from k3m_jax.pretrained.importing import read_tensors
from k3m_jax.reproductions.release.interleaving import Schedule, Stack, interact
from k3m_jax.reproductions.release.layers import AdditiveMask
from k3m_jax.reproductions.release.weights import RELEASE, check_config, model_settings
from k3m_jax.settings import UserError

GOLDEN = ROOT / "tests" / "golden" / "k3m_release"


# -- the schedule


def _stack(kind, count, fields, numerics, *example):
    """A stack of random parameters."""
    module = scan_layers(kind, count, *fields, numerics=numerics)
    params, _ = params_and_axes(module.init(jax.random.key(count), *example)["params"])
    noise = iter(jax.random.split(jax.random.key(9), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape), params)
    return Stack(kind(*fields, numerics, parent=None), params, numerics)


@pytest.mark.parametrize(
    ("text_before", "image_before"),
    [((0, 0), (2, 2)), ((1, 4), (0, 2))],
)
@pytest.mark.parametrize("unroll", [False, True])
def test_each_stream_runs_its_layers_where_the_schedule_says(text_before, image_before, unroll):
    """Against the general rule, written as a loop over layers and blocks."""
    numerics = Numerics(0.0, jnp.dtype("float32"), deterministic=True, unroll=unroll)
    x, y = jax.random.normal(jax.random.key(0), (2, 1, 3, 8))
    masks = tuple(map(AdditiveMask, jnp.ones((2, 1, 3), bool)))
    text, image = (
        _stack(SelfAttentionLayer, n, (s.Encoder(n, 8, 2, 8), axis), numerics, x, mask)
        for n, axis, mask in ((5, "embed", masks[0]), (2, "image_embed", masks[1]))
    )
    sizes = s.Interactor(blocks=2, width=8, heads=2, image_mlp=8, text_mlp=8)
    blocks = _stack(CoAttentionBlock, 2, (sizes,), numerics, (x, y), *masks)

    def layer(stack, i, *args):
        params = jax.tree.map(operator.itemgetter(i), stack.params)
        return stack.layer.apply({"params": params}, *args)[0]

    @jax.jit
    def ours(x, y):
        schedules = Schedule.of(text, text_before), Schedule.of(image, image_before)
        key = jax.random.key(0)
        starts = (c.start(z, m, key) for c, z, m in zip(schedules, (x, y), masks, strict=True))
        return interact(blocks, schedules, tuple(starts), masks, key)

    expected = x, y
    done = [0, 0]
    for k in range(3):
        upto = (text_before[k], image_before[k]) if k < 2 else (5, 2)
        streams = list(expected)
        for side, stack in enumerate((text, image)):
            for i in range(done[side], upto[side]):
                streams[side] = layer(stack, i, streams[side], masks[side])
            done[side] = upto[side]
        expected = layer(blocks, k, tuple(streams), *masks) if k < 2 else streams
    for found, wanted in zip(ours(x, y), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


CONFIG = {
    "hidden_size": 24,
    "num_hidden_layers": 7,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
    "vocab_size": 70,
    "v_feature_size": 10,
    "v_target_size": 9,
    "v_hidden_size": 20,
    "v_num_hidden_layers": 5,
    "v_num_attention_heads": 5,
    "v_intermediate_size": 28,
    "bi_hidden_size": 32,
    "bi_num_attention_heads": 8,
    "t_biattention_id": [1, 1, 6],
    "v_biattention_id": [0, 2, 5],
}


@pytest.mark.parametrize("mode", ["mean", "hard", "soft"])
def test_no_size_is_anyone_s_but_the_configuration_s(mode):
    """No two sizes are alike, no block is preceded by as many layers as another."""
    image = s.Image(front_end="regions", regions=6, feature_dim=10, classes=9)
    model = model_settings(epath.Path("config.json"), CONFIG, mode)
    settings = tiny_settings(model=model, image=image)
    network = Network(settings)
    params = network.abstract_params()
    zeros = {name: np.zeros(x.shape, np.float32) for name, x in params.items()}
    state = RELEASE.views(nested(zeros))
    assert flat(read_tensors(RELEASE, state, nested(params)).params).keys() == params.keys()
    assert state["bert_tri.encoder_tri.layer.6.attention.self.query.weight"].shape == (24, 24)
    assert state["bert_tri.encoder_tri.c_layer.2.biOutput.dense2.weight"].shape == (24, 32)
    assert state["bert_tri.encoder_tri.c_layer_pv_t.0.v_output.dense.weight"].shape == (24, 40)
    outputs = jax.eval_shape(network.apply, nested(params), random_batch(settings, 4))
    assert outputs.streams.fused.image.shape == (4, 7, 20)
    assert outputs.pair_logits.shape == (4, 2, 2)


def test_other_sizes_are_reported_all_at_once_with_what_to_set():
    path = epath.Path("config.json")
    image = s.Image(front_end="regions", regions=6, feature_dim=10, classes=9)
    fitting = tiny_settings(model=model_settings(path, CONFIG, "mean"), image=image)
    check_config(path, CONFIG, fitting)
    theirs = CONFIG | {"intermediate_size": 44, "t_biattention_id": [1, 2, 6], "v_feature_size": 9}
    with pytest.raises(UserError) as raised:
        check_config(path, theirs, fitting)
    for said in (
        "config.json: text.mlp is 44, but model.text.mlp is 40; ",
        "interactor.text_layers is (1, 2, 6), but model.interactor.text_layers is (1, 1, 6); ",
        "--config.model.text.mlp=44 --config.model.interactor.text_mlp=44 ",
        "'--config.model.interactor.text_layers=(1, 2, 6)' --config.image.feature_dim=9",
    ):
        assert said in str(raised.value)


# -- any batch


@pytest.fixture(scope="module")
def alone():
    """The model for a batch of one: a function of such a batch."""
    single = dataclasses.replace(TINY.objectives, group=1)
    settings = released(tiny_settings(objectives=single))
    network, active = Network(settings), objectives.active(settings)
    params = jax.jit(network.init_params)(jax.random.key(0))

    @jax.jit
    def run(batch):
        outputs = network.apply(params, batch)
        sums = objectives.sums(active, outputs, batch, None)
        total = objectives.total(active, sums, objectives.target_weights(active, batch))
        losses = {name: safe_ratio(*value) for name, value in sums.items()}
        return outputs.product, losses, total

    return run, random_batch(settings, 1)


@pytest.mark.parametrize("absent", ["nothing", "title", "picture", "triples", "all"])
def test_a_batch_of_one_and_whatever_it_lacks_gives_finite_losses(alone, absent):
    run, batch = alone
    batch = {name: array.copy() for name, array in batch.items()}
    for what, names in (
        ("title", ("title_tokens", "title_mask", "title_content", "mlm_weights")),
        ("picture", ("region_mask", "region_hidden", "mom_weights")),
        ("triples", ("knowledge_mask", "triple_mask", "property_spans", "value_spans")),
        ("triples", ("value_weights",)),
    ):
        if absent in (what, "all"):
            for name in names:
                batch[name][:] = 0
    product, losses, total = run(batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((product, losses, total)))
    # One item alone has no false product next to it.
    assert losses["structure"] == 0
    assert losses["mom"] > 0 or absent in ("picture", "all")


def test_choices_are_the_same_at_each_evaluation(alone):
    run, batch = alone
    jax.tree.map(np.testing.assert_array_equal, run(batch), run(batch))


# -- names


def _released():
    return load_file(GOLDEN / "model.safetensors")


def _fitting(settings, tensors):
    wanted = nested(Network(settings).abstract_params())
    return read_tensors(RELEASE, tensors, wanted)


@pytest.fixture(scope="module")
def golden_settings():
    """Settings that the golden parameters fit."""
    path = epath.Path(GOLDEN / "config.json")
    image = s.Image(front_end="regions", regions=6, feature_dim=40, classes=17)
    model = model_settings(path, json.loads(path.read_text()), "soft")
    return tiny_settings(model=model, image=image)


def test_every_name_is_used_or_ignored(golden_settings):
    tensors = _released()
    params, used, ignored = _fitting(golden_settings, tensors)
    assert set(used) | set(ignored) == tensors.keys()
    assert all("q_dense" in n or "pooler" in n or "individual_to_bi" in n for n in ignored)
    assert len(ignored) == 30
    written = RELEASE.views(params)
    assert written.keys() == set(used)
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_scores_are_ignored_where_the_fusion_has_none(golden_settings):
    model = golden_settings.model
    for mode, ignored in (("mean", 54), ("interactive", 54), ("hard", 36)):
        changed = dataclasses.replace(model, fusion=dataclasses.replace(model.fusion, mode=mode))
        settings = dataclasses.replace(golden_settings, model=changed)
        assert len(_fitting(settings, _released()).ignored) == ignored


def test_a_wrapper_s_prefix_and_old_names_of_layer_norms_are_read(golden_settings):
    def old(name):
        for new, before in (("weight", "gamma"), ("bias", "beta")):
            if "LayerNorm" in name:
                name = name.replace(f".{new}", f".{before}")
        return f"module.{name}"

    tensors = {old(name): tensor for name, tensor in _released().items()}
    expected = jax.tree.leaves(_fitting(golden_settings, _released())[0])
    found = jax.tree.leaves(_fitting(golden_settings, tensors)[0])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_that_are_not_known_lack_or_contradict_each_other_are_refused(golden_settings):
    word, decoder = "bert_tri.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    tensors = _released()
    for change, message in (
        ({"cls.extra.weight": np.zeros(1)}, "cls.extra.weight is no name of a released K3M"),
        ({"struc_w1.bias": None}, "a released K3M lacks struc_w1.bias"),
        ({"struc_w1.bias": np.zeros(3)}, r"struc_w1.bias has the shape \(3,\)"),
        ({decoder: tensors[decoder] + 1}, "are tied"),
    ):
        changed = {n: t for n, t in (tensors | change).items() if t is not None}
        with pytest.raises(UserError, match=message):
            _fitting(golden_settings, changed)
    without = {name: tensor for name, tensor in tensors.items() if name != decoder}
    params = _fitting(golden_settings, without).params
    np.testing.assert_array_equal(params["text_encoder"]["words"], tensors[word])
