"""Classical models of words, triples and pictures, on items that they can tell apart."""

import numpy as np
import pytest

from k3m_jax.tasks.fitted_baselines import BOTH, PICTURE, TEXT, fit_classifiers
from k3m_jax.tasks.trivial_baselines import SeenSplit


class Split:
    """What they read of a `TaskSplit`."""

    def __init__(self, labels):
        self.labels = np.array(labels)
        self.labelled = np.flatnonzero(self.labels >= 0)


def seen(labels, words, pixels, triples=None):
    pixels = np.repeat(np.array(pixels, np.float32)[:, None], 4, 1)
    triples = triples or [()] * len(labels)
    return SeenSplit(Split(labels), [tuple(w.split()) for w in words], pixels, triples)


@pytest.fixture(scope="module")
def classify():
    """Class 2 has no training item; one item has no label, one no picture, one no text."""
    labels = [0, 0, 0, 1, 1, 1, -1, 0, 1]
    words = ["cup", "cup red", "cup", "pot", "pot red", "pot", "vase", "", "pot"]
    pixels = [0.1, 0.12, 0.11, 0.9, 0.92, 0.91, 0.5, 0.1, np.nan]
    return fit_classifiers(seen(labels, words, pixels), 3)


def test_each_reads_its_modality_and_both_read_both(classify):
    scores = classify(seen([0, 1, 0], ["cup", "pot", ""], [0.9, np.nan, 0.1]))
    assert {name: each.shape for name, each in scores.items()} == dict.fromkeys(
        (TEXT, PICTURE, BOTH), (3, 3)
    )
    assert scores[TEXT].argmax(1)[:2].tolist() == [0, 1]
    assert scores[PICTURE].argmax(1)[[0, 2]].tolist() == [1, 0]
    assert np.ptp(scores[PICTURE][1]) == 0  # nothing to see
    np.testing.assert_allclose(scores[BOTH], scores[TEXT] + scores[PICTURE])
    assert scores[BOTH].argmax(1)[1:].tolist() == [1, 0]
    assert all(np.isfinite(each).all() for each in scores.values())
    np.testing.assert_allclose(np.exp(scores[TEXT]).sum(1), 1)


def test_triples_count_as_words():
    train = seen([0, 0, 1, 1], [""] * 4, [0.0] * 4, [("is\ta",), ("is\ta",), ("is\tb",)] * 1 + [()])
    classify = fit_classifiers(train, 2)
    found = classify(seen([0, 1], ["", ""], [0.0, 0.0], [("is\ta",), ("is\tb",)]))
    assert found[TEXT].argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])
def test_one_class_or_no_text_or_no_picture_at_all(labels):
    classify = fit_classifiers(seen(labels, ["", ""], [np.nan, np.nan]), 2)
    scores = classify(seen([0], ["cup"], [0.3]))
    assert all(np.isfinite(each).all() for each in scores.values())
