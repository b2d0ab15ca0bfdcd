"""The visual codebook: classes of patches that look alike."""

import numpy as np
import pytest

from k3m_jax.data.store import codebook as codebooks

P = 16


def plain(colour, noise=0, seed=0):
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) + rng.integers(-noise, noise + 1, (P, P, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(-1)


def striped(axis):
    stripe = np.where(np.arange(P) % 4 < 2, 90, 160)
    picture = np.broadcast_to(stripe[:, None] if axis == 0 else stripe[None], (P, P))
    return np.repeat(picture[..., None], 3, -1).astype(np.uint8).reshape(-1)


def described(*patches):
    return codebooks.describe(np.stack(patches), P)


def test_colour_distance_is_perceived_distance():
    black, white, grey, red = described(
        plain((0, 0, 0)), plain((255, 255, 255)), plain((119, 119, 119)), plain((255, 0, 0))
    )
    # L* runs from 0 to 100, and the cells together weigh as one colour.
    assert np.linalg.norm(white - black) == pytest.approx(100, abs=0.1)
    assert np.linalg.norm(grey - black) == pytest.approx(50, abs=0.5)
    L, a, b = red[:3] * codebooks.GRID
    assert (L, a, b) == pytest.approx(
        (53.2, 80.1, 67.2), abs=0.2
    )  # the published value of sRGB red


def test_direction_of_edges_counts_and_noise_hardly():
    across, along, flat = described(striped(0), striped(1), plain((125, 125, 125)))
    assert np.linalg.norm(across - along) > 20
    assert np.linalg.norm(across - flat) > 20
    a, b, other = described(
        plain((200, 60, 60), 3, 1), plain((200, 60, 60), 3, 2), plain((60, 60, 200))
    )
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - other)


def test_background_takes_few_classes_however_common_it_is():
    rng = np.random.default_rng(0)
    blank = [plain((254, 254, 254), 1, seed) for seed in range(3000)]
    others = [plain(rng.integers(0, 230, 3), 4, seed) for seed in range(300)]
    descriptors = described(*blank, *others)
    book = codebooks.fit(descriptors, 32, P)
    classes = book.nearest(descriptors)
    assert len(book.centres) == 32
    assert len(set(classes[:3000])) <= 2
    assert len(set(classes[3000:])) >= 25


def test_fewer_classes_where_fewer_patches_differ_and_one_without_pictures():
    descriptors = described(*[plain(c) for c in [(0, 0, 0), (255, 0, 0), (0, 0, 255)] * 20])
    assert len(codebooks.fit(descriptors, 256, P).centres) == 3
    book = codebooks.fit(np.zeros((0, 0), np.float32), 256, P)
    assert len(book.centres) == 1
    assert book.assign(np.zeros((0, P * P * 3), np.uint8)).shape == (0,)
    assert book.assign(plain((9, 9, 9))[None]).tolist() == [0]


def test_the_same_input_gives_the_same_classes_and_they_survive_a_file(tmp_path):
    rng = np.random.default_rng(1)
    patches = np.stack([plain(rng.integers(0, 256, 3), 20, seed) for seed in range(400)])
    descriptors = codebooks.describe(patches, P)
    book, again = (codebooks.fit(descriptors, 16, P) for _ in range(2))
    np.testing.assert_array_equal(book.centres, again.centres)
    book.save(tmp_path / "codebook.npz")
    loaded = codebooks.Codebook.load(tmp_path / "codebook.npz")
    assert loaded.patch_size == P
    classes = loaded.assign(patches)
    np.testing.assert_array_equal(classes, book.assign(patches))
    assert classes.dtype == np.int32
    # Every patch is nearest to its own centre.
    distance = np.linalg.norm(descriptors[:, None] - book.centres, axis=-1)
    np.testing.assert_array_equal(classes, distance.argmin(-1))


def test_the_nearest_class_does_not_depend_on_rounding():
    """In float32 the order of a sum would decide, and that depends on the number of threads."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(scale=30, size=(200, 80)).astype(np.float32)
    for x in descriptors:
        steps = rng.normal(size=(2, 80))
        steps *= np.array([[1.0], [1.001]]) / np.linalg.norm(steps, axis=1, keepdims=True)
        centres = (x + 0.01 * steps).astype(np.float32)
        exact = ((centres.astype(np.float64) - x) ** 2).sum(-1).argmin()
        assert codebooks.Codebook(centres, 8).nearest(x[None]) == [exact]
