import dataclasses

import numpy as np
import pytest
from tiny import TINY, tiny_settings

from k3m_jax.data.batch import random_batch
from k3m_jax.evaluation.floors import NCE_CHANCE, constant_answer
from k3m_jax.objectives import pretraining


def settings_of(variant):
    mom = dataclasses.replace(TINY.objectives.mom, variant=variant)
    return tiny_settings(objectives=dataclasses.replace(TINY.objectives, mom=mom))


def measured(settings, constant, batch):
    sums = pretraining.sums(constant.outputs(batch), batch, settings.objectives, key=None)
    return {name: float(total / weight) for name, (total, weight) in sums.items()}


@pytest.fixture(scope="module")
def training():
    batches = [random_batch(TINY, 16, seed) for seed in range(3)]
    for batch in batches:
        batch["mlm_targets"][:, ::3] = 7
        batch["mlm_weights"][:, 1::4] = 0
        batch["class_ids"][:, ::2, 0] = 4
        batch["class_probs"][:, ::2] = (0.8, 0.2, 0.0)
    return batches


def test_the_most_frequent_answers_on_the_same_positions(training):
    settings = settings_of("kl")
    held_out = random_batch(TINY, 16, 9)
    held_out["mlm_targets"][:4] = 7
    held_out["mlm_weights"][2:, 1:] = 0
    found = measured(settings, constant_answer(training, settings), held_out)
    asked = held_out["mlm_weights"] > 0
    assert found["mlm_accuracy"] == pytest.approx((held_out["mlm_targets"][asked] == 7).mean())
    asked = held_out["mom_weights"] > 0
    likeliest = np.take_along_axis(
        held_out["class_ids"], held_out["class_probs"].argmax(-1)[..., None], -1
    )[..., 0]
    assert found["mom_top1"] == pytest.approx((likeliest[asked] == 4).mean())


def test_losses_are_those_of_the_frequencies(training):
    settings = settings_of("kl")
    constant = constant_answer(training, settings)
    asked = np.concatenate([b["mlm_targets"][b["mlm_weights"] > 0] for b in training])
    counts = 1 + np.bincount(asked, minlength=settings.model.vocabulary)
    np.testing.assert_allclose(np.exp(constant.mlm_logits), counts / counts.sum(), rtol=1e-5)
    held_out = random_batch(TINY, 16, 9)
    expected = -constant.mlm_logits[held_out["mlm_targets"]].mean()
    found = measured(settings, constant, held_out)
    assert found["mlm"] == pytest.approx(expected, rel=1e-5)
    assert found["lpm"] == pytest.approx(settings.objectives.lpm.margin)


def test_regression_predicts_the_mean_feature(training):
    settings = settings_of("regression")
    asked = [b["mom_weights"] > 0 for b in training]
    seen = np.concatenate(
        [b["region_inputs"][a] / 127.5 - 1 for b, a in zip(training, asked, strict=True)]
    )
    found = measured(settings, constant_answer(training, settings), training[0])
    features = training[0]["region_inputs"][asked[0]] / 127.5 - 1
    expected = np.square(features - seen.mean(0)).mean()
    assert found["mom"] == pytest.approx(expected, rel=1e-4)


def test_nce_cannot_tell_features_apart(training):
    settings = settings_of("nce")
    found = measured(settings, constant_answer(training, settings), random_batch(TINY, 16, 9))
    # A few of the 255 drawn negatives are the true feature itself or do not exist.
    assert found["mom"] == pytest.approx(-np.log(NCE_CHANCE), rel=0.05)
    assert pytest.approx(1 / 256) == NCE_CHANCE


def test_training_that_asks_for_nothing():
    batch = random_batch(TINY, 16)
    batch["mlm_weights"][:] = 0
    batch["mom_weights"][:] = 0
    for variant in ("kl", "regression", "nce"):
        settings = settings_of(variant)
        constant = constant_answer([batch], settings)
        assert np.isfinite(constant.mlm_logits).all()
        assert np.isfinite(constant.mom_prediction).all()
