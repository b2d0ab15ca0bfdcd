"""What the model can do beyond the paper's: `configs/k3m_robust.py` uses all of it."""

import dataclasses

import jax
import numpy as np
import pytest

from k3m_jax.model.k3m import mean_modality
from k3m_jax.model.network import Network
from tests.random_batch import random_batch
from tests.tiny import TINY, tiny_settings

INTERACTOR = dataclasses.replace(TINY.model.interactor, knowledge=True)
KNOWING = tiny_settings(model=dataclasses.replace(TINY.model, interactor=INTERACTOR))


@pytest.fixture(scope="module")
def knowing():
    """The fused streams of a model whose title and picture attend to triples, jitted."""
    network = Network(KNOWING)
    params = network.init_params(jax.random.key(0))
    return jax.jit(lambda batch: network.product(params, batch))


def absent(batch, *names):
    """The batch without arrays that begin with these names."""
    return {k: np.zeros_like(x) if k.startswith(names) else x for k, x in batch.items()}


def other_triples(batch):
    """The same with other words in the triples."""
    return batch | {"knowledge_tokens": batch["knowledge_tokens"][::-1].copy()}


@pytest.mark.parametrize("lacking", [(), ("region_mask",)])
def test_a_title_sees_the_words_of_the_triples_with_or_without_a_picture(knowing, lacking):
    batch = absent(random_batch(TINY, 4), *lacking)
    before, after = knowing(batch).title, knowing(other_triples(batch)).title
    assert (np.abs(before - after).max((1, 2)) > 1e-3).all()


def test_a_picture_sees_them_without_a_title(knowing):
    batch = absent(random_batch(TINY, 4), "title_mask", "title_content", "title_tokens")
    before, after = knowing(batch).image, knowing(other_triples(batch)).image
    assert (np.abs(before - after).max((1, 2)) > 1e-3).all()


def test_words_that_are_masked_out_change_nothing(knowing):
    batch = absent(random_batch(TINY, 4), "knowledge_mask", "triple_mask")
    before, after = knowing(batch), knowing(other_triples(batch))
    for name in ("title", "image", "embedding"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_by_modality_each_counts_once_however_long_and_what_is_absent_is_learned():
    rng = np.random.default_rng(0)
    title, image = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 30, 5))
    masks = rng.random((4, 3)) < 0.7, rng.random((4, 30)) < 0.7
    masks[0][:2] = [[False] * 3, [True, False, True]]
    masks[1][0] = True
    masks[1][1:3] = False
    masks[0][2] = True
    masks[0][3] = masks[1][3] = False
    absent = rng.normal(size=(2, 5))
    found = mean_modality([(title, masks[0]), (image, masks[1])], absent)
    for i in range(4):
        means = [
            x[i][mask[i]].mean(0) if mask[i].any() else lacking
            for x, mask, lacking in zip((title, image), masks, absent, strict=True)
        ]
        expected = np.mean(means, 0)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


def test_scaled_scores_flatten_the_attention_over_triples():
    structure = dataclasses.replace(TINY.model.structure, scaled=True)
    scaled = tiny_settings(model=dataclasses.replace(TINY.model, structure=structure))
    params = Network(TINY).init_params(jax.random.key(0))
    params["structure"]["w2"] *= 50
    batch = random_batch(TINY, 8)
    plain, flat = (
        np.log(Network(s).product(params, batch).triple_attention) for s in (TINY, scaled)
    )
    width = TINY.model.text.width
    spread = [x - x[..., :1] for x in (plain, flat)]
    np.testing.assert_allclose(spread[1] * width**0.5, spread[0], rtol=1e-3, atol=1e-3)
    assert np.abs(spread[0]).max() > 0.1
