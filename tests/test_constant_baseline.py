import dataclasses

import numpy as np
import pytest
from random_batch import random_batch
from tiny import TINY, tiny_settings

from k3m_jax import objectives
from k3m_jax.evaluation.evaluator import constant_counts, constant_outputs
from k3m_jax.objectives.masked_object import NCE_CHANCE


def settings_of(variant):
    mom = dataclasses.replace(TINY.objectives.mom, variant=variant)
    return tiny_settings(objectives=dataclasses.replace(TINY.objectives, mom=mom))


def measured(settings, training, batch):
    active = objectives.active(settings)
    counts = constant_counts(active, training)
    outputs = constant_outputs(active, counts, batch)
    sums = objectives.sums(active, outputs, batch, key=None)
    return {name: float(total / weight) for name, (total, weight) in sums.items()}


MASK, FILLER = 3, 5  # tokens of a title: at a target, and between targets


@pytest.fixture(scope="module")
def training():
    batches = [random_batch(TINY, 16, seed) for seed in range(3)]
    for batch in batches:
        batch["mlm_targets"][:, ::3] = 7
        batch["mlm_weights"][8:] = 0
        batch["title_tokens"][:] = FILLER
        batch["title_content"][:] = False
        for row in range(8):
            batch["title_tokens"][row, batch["mlm_positions"][row]] = MASK
            batch["title_content"][row, batch["mlm_positions"][row]] = True
        batch["title_content"][8, 1:3] = True
        batch["class_ids"][:, ::2, 0] = 4
        batch["class_probs"][:, ::2] = (0.8, 0.2, 0.0)
        batch["region_mask"][12:] = False
        batch["class_ids"][12:] = 2
    return batches


def every_token(batches):
    """The tokens that those titles had before any was masked."""
    targets = [batch["mlm_targets"][batch["mlm_weights"] > 0] for batch in batches]
    return np.concatenate([*targets, np.full(2 * len(batches), FILLER)])


def test_the_most_frequent_tokens_at_the_same_targets(training):
    settings = settings_of("kl")
    held_out = random_batch(TINY, 16, 9)
    held_out["mlm_targets"][:4] = 7
    held_out["mlm_weights"][2:, 1:] = 0
    found = measured(settings, training, held_out)
    targets = held_out["mlm_weights"] > 0
    assert found["mlm_accuracy"] == pytest.approx((held_out["mlm_targets"][targets] == 7).mean())
    targets = held_out["mom_weights"] > 0
    likeliest = np.take_along_axis(
        held_out["class_ids"], held_out["class_probs"].argmax(-1)[..., None], -1
    )[..., 0]
    assert found["mom_top1"] == pytest.approx((likeliest[targets] == 4).mean())


def test_losses_are_those_of_the_frequencies(training):
    settings = settings_of("kl")
    counts = 1 + np.bincount(every_token(training), minlength=settings.model.vocabulary)
    held_out = random_batch(TINY, 16, 9)
    expected = -np.log(counts / counts.sum())[held_out["mlm_targets"]].mean()
    found = measured(settings, training, held_out)
    assert found["mlm"] == pytest.approx(expected, rel=1e-5)
    assert found["lpm"] == pytest.approx(settings.objectives.lpm.margin)


def test_regression_predicts_the_mean_feature(training):
    settings = settings_of("regression")
    seen = np.concatenate([b["region_inputs"][b["region_mask"][:, 1:]] for b in training])
    seen = seen / 127.5 - 1
    held_out = random_batch(TINY, 16, 9)
    found = measured(settings, training, held_out)
    features = held_out["region_inputs"][held_out["mom_weights"] > 0] / 127.5 - 1
    expected = np.square(features - seen.mean(0)).mean()
    assert found["mom"] == pytest.approx(expected, rel=1e-4)


def test_nce_cannot_tell_features_apart(training):
    settings = settings_of("nce")
    found = measured(settings, training, random_batch(TINY, 16, 9))
    # A few of the 255 drawn negatives are the true feature itself or do not exist.
    assert found["mom"] == pytest.approx(-np.log(NCE_CHANCE), rel=0.05)
    assert pytest.approx(1 / 256) == NCE_CHANCE


def test_training_that_shows_nothing():
    batch = random_batch(TINY, 16)
    for name in ("mlm_weights", "mom_weights", "title_content", "region_mask"):
        batch[name][:] = 0
    for variant in ("kl", "regression", "nce"):
        settings = settings_of(variant)
        found = measured(settings, [batch], random_batch(TINY, 16, 1))
        assert np.isfinite(list(found.values())).all()
