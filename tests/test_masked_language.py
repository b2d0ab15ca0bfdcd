"""MLM: which tokens are hidden and how; the loss against its formula."""

import numpy as np
import pytest

from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.base import EncodedText
from k3m_jax.objectives.base import Hiding, cross_entropy
from k3m_jax.objectives.masked_language import MaskedLanguage
from k3m_jax.settings import MaskedLanguage as Options
from tests.products import tokenizer

RNG = np.random.default_rng(0)
WORD = 7  # an ordinary token
COUNTS = {0: 0, 1: 1, 3: 1, 10: 2, 17: 3, 34: 5, 60: 6}  # targets by words, at 15 %


def hide(n, seed, rate=0.15, limit=6, training=True):
    """Hides tokens of a text of `n` words: (its tokens, the targets)."""
    assert WORD in tokenizer().ordinary_ids
    tokens = np.full(n + 2, WORD, np.int32)
    tokens[[0, -1]] = tokenizer().cls, tokenizer().sep
    text = EncodedText(tokens, tokens == WORD)
    generators = {"title": np.random.default_rng(seed)}
    hiding = Hiding(tokenizer(), ValueVocabulary((), ()), generators, training)
    objective = MaskedLanguage(Options(rate=rate), limit, tokenizer().size)
    target, encoded = objective.hide(None, {"title": text}, hiding)
    np.testing.assert_array_equal(text.tokens == WORD, text.content)  # not written over
    assert (target["mlm_targets"] == WORD).all()
    return encoded["title"].tokens, target["mlm_positions"]


@pytest.mark.parametrize(
    ("n", "rate", "count"),
    [(10, 0, 0), *((n, 0.15, m) for n, m in COUNTS.items())],
)
def test_the_number_of_hidden_tokens_is_exact_and_capped(n, rate, count):
    for seed in range(20):
        tokens, positions = hide(n, seed, rate)
        assert len(positions) == len(set(positions.tolist())) == count
        assert (tokens[1:-1] == WORD).sum() >= n - count
    for seed in range(20):  # at evaluation no target can be seen
        tokens, positions = hide(n, seed, rate, training=False)
        assert len(positions) == count
        assert (tokens[positions] == tokenizer().mask).all()


def test_only_targets_change_and_four_fifths_of_them_become_mask():
    fates, places = {"mask": 0, "kept": 0, "random": 0}, np.zeros(42)
    for seed in range(2000):
        tokens, positions = hide(40, seed)
        others = np.setdiff1d(np.arange(1, 41), positions)
        assert (tokens[others] == WORD).all()
        assert (tokens[0], tokens[-1]) == (tokenizer().cls, tokenizer().sep)
        places[positions] += 1
        for token in tokens[positions]:
            assert token == tokenizer().mask or token in tokenizer().ordinary_ids
            kept = "kept" if token == WORD else "random"
            fates["mask" if token == tokenizer().mask else kept] += 1
    share = {fate: count / (2000 * 6) for fate, count in fates.items()}
    # 5 standard deviations of a share of 12,000 draws are under 0.019; a random token is the old
    # one in one of as many as are ordinary.
    same = 0.1 / len(tokenizer().ordinary_ids)
    assert abs(share["mask"] - 0.8) < 0.019
    assert abs(share["random"] - 0.1 + same) < 0.015
    assert abs(share["kept"] - 0.1 - same) < 0.015
    assert places[1:-1].min() > 0.75 * places[1:-1].mean()


def test_the_loss_is_the_cross_entropy_of_the_targets_alone():
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    targets = RNG.integers(0, 5, (2, 3))
    weights = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    loss, right = cross_entropy(logits, targets, weights)
    expected = 0.0
    for b, m in zip(*np.nonzero(weights), strict=True):
        scores = logits[b, m].astype(np.float64)
        expected += np.log(np.exp(scores).sum()) - scores[targets[b, m]]
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert loss.weight == right.weight == 3
    assert right.total == ((logits.argmax(-1) == targets) * weights).sum()
