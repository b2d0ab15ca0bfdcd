"""The baselines: absence, padding, rows by themselves, low precision, hidden regions."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch
from tiny import baseline, tiny_settings

from k3m_jax import objectives
from k3m_jax.model.network import Network
from k3m_jax.settings import UserError
from k3m_jax.settings.presets import PRESETS

BASELINES = ("bert", "vilbert", "vlbert", "lxmert")
WITH_PICTURE = BASELINES[1:]
ROWS = 8
TEXT = ("title_mask", "title_content", "mlm_weights")
PICTURE = ("region_mask", "mom_weights")


@functools.cache
def built(preset):
    """With the triples in the text, whose arrays are those of a longer title."""
    network = Network(baseline(preset, knowledge_text=True))
    params = jax.jit(network.init_params)(jax.random.key(0))
    return network, params, jax.jit(network.apply)


def emptied(batch, names, rows=slice(None)):
    batch = {name: x.copy() for name, x in batch.items()}
    for name in names:
        if name in batch:
            batch[name][rows] = 0
    return batch


def leaves(outputs):
    return [np.asarray(x, np.float32) for x in jax.tree.leaves(outputs)]


@pytest.mark.parametrize("preset", BASELINES)
def test_every_pattern_of_absence_is_finite_and_changes_its_own_rows_alone(preset):
    network, params, apply = built(preset)
    batch = random_batch(network.settings, ROWS)
    whole = apply(params, batch).product.embedding
    absences = (TEXT, PICTURE)[: len(PRESETS[preset].modalities)]
    for absent in itertools.product([False, True], repeat=len(absences)):
        names = sum(itertools.compress(absences, absent), ())
        outputs = apply(params, emptied(batch, names, slice(0, 3)))
        assert all(np.isfinite(x).all() for x in leaves(outputs))
        embedding = outputs.product.embedding
        np.testing.assert_array_equal(embedding[3:], whole[3:])
        assert (not np.allclose(embedding[:3], whole[:3], atol=1e-4)) == any(absent)
        if all(absent):
            np.testing.assert_array_equal(embedding[:3], np.tile(params["absent"], (3, 1)))


@pytest.mark.parametrize("preset", BASELINES)
def test_padding_never_changes_a_result(preset):
    network, params, apply = built(preset)
    batch = random_batch(network.settings, ROWS)
    batch["title_mask"][:, 6:] = batch["title_content"][:, 5:] = False
    batch["mlm_positions"][:] = 1
    if "region_mask" in batch:
        batch["region_mask"][:, 3:] = False
        batch["mom_weights"][:, 2:] = 0
    noisy = {name: x.copy() for name, x in batch.items()}
    noisy["title_tokens"][:, 6:] = 7
    if "region_mask" in batch:
        noisy["region_boxes"][:, 3:] = 7.0
        noisy["region_inputs"][:, 2:] = 255 - noisy["region_inputs"][:, 2:]
    clean, found = apply(params, batch), apply(params, noisy)
    np.testing.assert_array_equal(clean.product.embedding, found.product.embedding)
    np.testing.assert_array_equal(clean.mlm_logits, found.mlm_logits)
    if "region_mask" in batch:
        np.testing.assert_array_equal(clean.mom_prediction[:, :2], found.mom_prediction[:, :2])


@pytest.mark.parametrize("preset", WITH_PICTURE)
def test_each_modality_tells_the_other_something_and_a_hidden_region_nothing(preset):
    network, params, apply = built(preset)
    batch = random_batch(network.settings, ROWS)
    batch["region_hidden"][:] = False
    batch["region_hidden"][:, 1] = True
    before = apply(params, batch)
    for region, seen in ((1, False), (2, True)):
        other = {**batch, "region_inputs": batch["region_inputs"].copy()}
        other["region_inputs"][:, region] = 255 - other["region_inputs"][:, region]
        after = apply(params, other)
        assert (not np.array_equal(before.mlm_logits, after.mlm_logits)) == seen
        assert (not np.array_equal(before.mom_prediction, after.mom_prediction)) == seen
    text = {**batch, "title_tokens": batch["title_tokens"][::-1].copy()}
    assert not np.array_equal(before.mom_prediction, apply(params, text).mom_prediction)


@pytest.mark.parametrize("preset", BASELINES)
def test_a_batch_of_one_and_bfloat16(preset):
    network, params, apply = built(preset)
    batch = random_batch(network.settings, ROWS)
    whole = apply(params, batch)
    chosen = network.settings
    half = Network(
        dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, dtype="bfloat16"))
    )
    low = jax.jit(half.apply)(params, {name: x[5:6] for name, x in batch.items()})
    assert low.product.title.dtype == jnp.bfloat16
    assert low.product.embedding.dtype == low.mlm_logits.dtype == jnp.float32
    scale = np.abs(whole.product.embedding).max()
    # 8 bits of mantissa through half a dozen layers.
    np.testing.assert_allclose(
        low.product.embedding[0], whole.product.embedding[5], atol=0.1 * scale
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", BASELINES)
def test_without_targets_loss_and_gradient_are_0_and_else_reach_every_parameter(preset):
    network, params, _ = built(preset)
    active = objectives.active(network.settings)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        outputs = network.apply(params, batch, key=jax.random.key(0))
        results = objectives.sums(active, outputs, batch, None)
        return objectives.total(active, results, objectives.target_weights(active, batch))

    batch = random_batch(network.settings, 4)
    value, gradient = loss(params, emptied(batch, TEXT + PICTURE))
    assert value == 0
    assert all((x == 0).all() for x in leaves(gradient))
    value, gradient = loss(params, batch)
    assert value > 0
    untouched = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, x in jax.tree_util.tree_leaves_with_path(gradient)
        if (x == 0).all()
    }
    untouched = {name for name in untouched if not name.endswith("key/bias")}  # 0, or round-off
    # What the embedding alone reads, which no pretraining task of a baseline does.
    pooling = {"absent"} | ({"image_map/kernel", "image_map/bias"} if preset != "bert" else set())
    assert untouched == pooling


def test_lxmert_meets_by_the_same_weights_both_ways():
    _, params, _ = built("lxmert")
    assert params["interactor"]["blocks"].keys() == {
        "cross_attention", "cross_norm", "text", "image",
    }  # fmt: skip


def test_candidates_are_encoded_by_the_own_text_encoder():
    network, params, _ = built("vlbert")
    tokens = np.array([[1, 5, 6, 7, 2, 0]], np.int32)
    spans = {"property_spans": np.array([[1, 2]]), "value_spans": np.array([[2, 4]])}
    encode = jax.jit(network.encode_candidates)
    p, v = encode(params, {"tokens": tokens, "mask": tokens > 0, **spans})
    assert p.shape == v.shape == (1, network.settings.model.text.width)
    padded = np.where(tokens > 0, tokens, 9)
    again, _ = encode(params, {"tokens": padded, "mask": tokens > 0, **spans})
    np.testing.assert_array_equal(p, again)


def test_contradictions_are_reported():
    for preset in ("paper", "release"):
        with pytest.raises(UserError, match=r"^model\.knowledge_text"):
            baseline(preset, knowledge_text=True)
    chosen = baseline("lxmert")
    image = dataclasses.replace(chosen.model.image, width=64)
    with pytest.raises(UserError, match="'lxmert' has one width"):
        tiny_settings(model=dataclasses.replace(chosen.model, image=image))
    lengths = dataclasses.replace(chosen.lengths, title=20)
    with pytest.raises(UserError, match=r"^model\.positions 24"):
        tiny_settings(model=baseline("bert", knowledge_text=True).model, lengths=lengths)
