import numpy as np
import pytest

from k3m_jax.data.input.masking import mask_regions, mask_tokens, num_targets, overlaps
from k3m_jax.modalities.pixels import grid_boxes

MASK, ORDINARY = 4, np.arange(5, 50, dtype=np.int32)


def draw(content, seed, rate=0.15, limit=6, training=True):
    content, rng = np.asarray(content, np.int32), np.random.default_rng(seed)
    return mask_tokens(content, rate, limit, MASK, ORDINARY, rng, training=training)


@pytest.mark.parametrize(
    ("n", "count"), [(0, 0), (1, 1), (3, 1), (10, 2), (17, 3), (34, 5), (60, 6)]
)
def test_the_number_of_masked_tokens_is_exact_and_capped(n, count):
    for seed in range(20):
        masked, positions = draw(np.full(n, 7), seed)
        assert len(positions) == len(set(positions.tolist())) == count
        assert masked.shape == (n,)


def test_a_rate_of_zero_asks_for_nothing():
    assert num_targets(10, 0) == 0
    masked, positions = draw([7, 8], 0, rate=0)
    assert masked.tolist() == [7, 8]
    assert len(positions) == 0


def test_only_what_is_asked_for_changes_and_four_fifths_become_mask():
    content = np.full(40, 7, np.int32)
    fates = {"mask": 0, "kept": 0, "random": 0}
    places = np.zeros(40)
    for seed in range(2000):
        masked, positions = draw(content, seed)
        untouched = np.setdiff1d(np.arange(40), positions)
        np.testing.assert_array_equal(masked[untouched], content[untouched])
        places[positions] += 1
        for token in masked[positions]:
            assert token == MASK or token in ORDINARY
            fates["mask" if token == MASK else "kept" if token == 7 else "random"] += 1
    total = 2000 * 6
    # 5 standard deviations of a share of 12,000 draws are under 0.019; a random token is the old
    # one in 1 of 45.
    assert abs(fates["mask"] / total - 0.8) < 0.019
    assert abs(fates["random"] / total - 0.1 * 44 / 45) < 0.015
    assert abs(fates["kept"] / total - 0.1 * 46 / 45) < 0.015
    assert places.min() > 0.75 * places.mean()


def test_regions_nine_in_ten_of_those_asked_for_are_hidden_and_no_others():
    boxes, hidden_count = grid_boxes(6), 0
    for seed in range(1000):
        chosen, hidden = mask_regions(boxes, 0.15, np.random.default_rng(seed), training=True)
        assert chosen.sum() == 5
        assert not (hidden & ~chosen).any()
        hidden_count += hidden.sum()
    assert abs(hidden_count / 5000 - 0.9) < 0.022  # 5 standard deviations


def test_at_evaluation_no_answer_can_be_seen():
    for seed in range(50):
        masked, positions = draw(np.full(40, 7), seed, training=False)
        assert (masked[positions] == MASK).all()
        chosen, hidden = mask_regions(
            grid_boxes(6), 0.15, np.random.default_rng(seed), training=False
        )
        assert chosen.sum() == 5
        np.testing.assert_array_equal(chosen, hidden)


def test_a_picture_without_regions_has_nothing_to_ask():
    boxes = np.zeros((0, 4), np.float32)
    chosen, hidden = mask_regions(boxes, 0.15, np.random.default_rng(0), training=True)
    assert chosen.shape == hidden.shape == (0,)


def test_a_region_that_shows_what_is_hidden_is_hidden_too_but_not_asked_for():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.4, 0.4, 1, 1]], np.float32)
    seen = set()
    for seed in range(200):
        chosen, hidden = mask_regions(boxes, 0.3, np.random.default_rng(seed), training=True)
        assert chosen.sum() == 1
        assert hidden[0] == hidden[1]
        seen.add((int(chosen.argmax()), tuple(hidden.tolist())))
    assert (0, (True, True, False)) in seen
    assert (2, (False, False, True)) in seen
    assert not any(hidden[2] for first, hidden in seen if first != 2)


def test_overlap_against_cases_done_by_hand():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 1], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 0.5, 0], [0, 0, 0]], rtol=1e-6)
