"""Region features computed elsewhere: three layouts, one meaning, and no fatal row."""

import base64
import pickle

import numpy as np
import pytest

from k3m_jax.data.catalog.region_features import RegionReader, RegionSizes, make_regions
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.settings import UserError

WIDTH, HEIGHT, F, C = 200, 100, 16, 10


def arrays(n, seed=0, **changes):
    """What a detector wrote of one picture."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((n, 2, 2)), axis=1) * (WIDTH, HEIGHT)
    return {
        "image_w": WIDTH,
        "image_h": HEIGHT,
        "boxes": corners.reshape(n, 4).astype(np.float32),
        "features": rng.random((n, F), np.float32),
        "cls_prob": rng.dirichlet(np.ones(C), n).astype(np.float32),
    } | changes


def row(item, raw, columns=("boxes", "features", "cls_prob")):
    cells = [item, raw["image_w"], raw["image_h"], len(raw["boxes"])]
    cells += [base64.b64encode(np.ascontiguousarray(raw[c]).tobytes()).decode() for c in columns]
    return "\t".join(map(str, cells))


def tsv(folder, *rows, items=("good",), top_classes=3):
    """A reader of rows, and of a good one."""
    path = folder / "regions.tsv"
    path.write_text("\n".join([*rows, row("good", arrays(1, 9))]) + "\n")
    return RegionReader(path, items, top_classes)


def npz(folder, pictures):
    pictures = {"good": arrays(1, 9), **pictures}
    named = {f"{item}/{key}": value for item, raw in pictures.items() for key, value in raw.items()}
    np.savez(folder / "regions.npz", **named)
    return RegionReader(folder / "regions.npz", ["absent", "good"], 3)


def npz_folder(folder, pictures):
    (folder / "regions").mkdir()
    for item, raw in {"good": arrays(1, 9), **pictures}.items():
        np.savez(folder / "regions" / f"{item}.npz", **raw)
    return RegionReader(folder / "regions", ["absent", "good"], 3)


def refusal(source, item="a"):
    with pytest.raises(InvalidRecordError) as caught:
        source.read(item, 36)
    assert caught.value.reason == "bad_regions"
    return caught.value.detail


def as_arrays(raw):
    return {key: np.asarray(value) for key, value in raw.items()}


def test_the_three_layouts_mean_the_same(tmp_path):
    pictures = {"a": arrays(5), "七": arrays(4, 1)}
    sources = [
        tsv(tmp_path, *[row(item, raw) for item, raw in pictures.items()]),
        npz(tmp_path, pictures),
        npz_folder(tmp_path, pictures),
    ]
    for source in [*sources, *map(pickle.loads, map(pickle.dumps, sources))]:
        assert source.sizes == RegionSizes(feature_dim=F, classes=C, top_classes=3)
        assert len(source.read("absent", 36).boxes) == 0
        for item, raw in pictures.items():
            regions, wanted = source.read(item, 36), make_regions(as_arrays(raw), 36, 3)
            for name in ("boxes", "features", "class_ids", "class_probs"):
                np.testing.assert_array_equal(getattr(regions, name), getattr(wanted, name))


def test_what_is_kept():
    raw = as_arrays(arrays(50))
    regions = make_regions(raw, 36, 3)
    assert regions.boxes.shape == (36, 4)
    assert regions.boxes.dtype == np.float32
    assert regions.features.dtype == regions.class_probs.dtype == np.float16
    assert regions.class_ids.dtype == np.int32
    confident = np.sort(np.argsort(-raw["cls_prob"].max(-1))[:36])
    np.testing.assert_array_equal(regions.features, raw["features"][confident].astype(np.float16))
    np.testing.assert_allclose(
        regions.boxes, raw["boxes"][confident] / (WIDTH, HEIGHT, WIDTH, HEIGHT), rtol=1e-6
    )
    for i, r in enumerate(confident):
        np.testing.assert_array_equal(regions.class_ids[i], np.argsort(-raw["cls_prob"][r])[:3])
        np.testing.assert_allclose(  # float16 keeps 11 bits
            regions.class_probs[i], np.sort(raw["cls_prob"][r])[::-1][:3], rtol=1e-3
        )


def test_boxes_that_overshoot_are_cut_at_the_border():
    boxes = np.array([[-1, -1, WIDTH + 1, HEIGHT + 1]], np.float32)
    regions = make_regions(as_arrays(arrays(1, boxes=boxes)), 36, 3)
    np.testing.assert_array_equal(regions.boxes, [[0, 0, 1, 1]])


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_a_header_names_the_columns(tmp_path, dtype):
    raw = arrays(4, objects=np.array([7, 0, 3, 3], dtype))
    header = "image_id\timage_w\timage_h\tnum_boxes\tboxes\tfeatures\tobjects"
    rows = [header, row("a", raw, ("boxes", "features", "objects"))]
    source = tsv(tmp_path, *rows, items=["a"], top_classes=8)
    assert source.sizes == RegionSizes(F, 0, 1)
    regions = source.read("a", 3)
    np.testing.assert_array_equal(regions.class_ids, [[7], [0], [3]])
    np.testing.assert_array_equal(regions.class_probs, np.ones((3, 1)))


def test_without_classes(tmp_path):
    source = tsv(tmp_path, row("a", arrays(4), ("boxes", "features")), items=["a"], top_classes=8)
    assert source.sizes == RegionSizes(F, 0, 0)
    assert source.read("a", 36).class_ids.shape == (4, 0)


def test_the_first_of_repeated_rows_is_read_and_no_box_is_no_picture(tmp_path):
    source = tsv(tmp_path, row("a", arrays(2)), row("a", arrays(3)), row("b", arrays(0)))
    assert len(source.read("a", 36).boxes) == 2
    none = source.read("b", 36)
    assert (none.boxes.shape, none.features.shape) == ((0, 4), (0, F))
    assert none.class_ids.shape == none.class_probs.shape == (0, 3)


NAN = np.full((4, F), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"features": NAN}, "NaN"),
        ({"features": np.full((4, F), 1e6, np.float32)}, "too large"),
        ({"features": np.ones((4, F + 1), np.float32)}, "the first picture had"),
        ({"features": np.ones((4, 0), np.float32)}, "feature"),
        ({"features": np.ones((3, F), np.float32)}, "feature"),
        ({"boxes": np.full((4, 4), np.inf, np.float32)}, "boxes"),
        ({"boxes": np.array([[50, 0, 10, 9]] * 4, np.float32)}, "ends before"),
        ({"cls_prob": np.full((4, C), np.nan, np.float32)}, "cls_prob"),
        ({"cls_prob": np.zeros((4, C), np.float32)}, "cls_prob"),
        ({"cls_prob": np.full((4, C), -0.1, np.float32)}, "cls_prob"),
        ({"cls_prob": np.full((4, C + 2), 0.1, np.float32)}, "the first picture had"),
        ({"image_w": 0}, "0 x 100"),
        ({"image_h": float("nan")}, "nan"),
    ],
)
@pytest.mark.parametrize("layout", ["tsv", "npz"])
def test_malformed_arrays_are_refused(tmp_path, changes, detail, layout):
    raw = arrays(4, **changes)
    source = tsv(tmp_path, row("a", raw)) if layout == "tsv" else npz(tmp_path, {"a": raw})
    assert detail in refusal(source)


@pytest.mark.parametrize(
    ("column", "cell"),
    [(1, "wide"), (2, ""), (3, "-1"), (3, "5"), (3, "four"), (4, "%%%"), (5, "AAA"), (5, "")],
)
def test_malformed_cells_are_refused(tmp_path, column, cell):
    cells = row("a", arrays(4)).split("\t")
    cells[column] = cell
    refusal(tsv(tmp_path, "\t".join(cells)))
    with pytest.raises(UserError, match="usable regions of no product"):
        tsv(tmp_path, "\t".join(cells), items=["a"])


def test_truncated_rows_and_files_are_refused(tmp_path):
    whole = row("a", arrays(4))
    refusal(tsv(tmp_path, whole[: len(whole) // 2]))
    refusal(tsv(tmp_path, "a"))
    source = npz_folder(tmp_path, {"a": arrays(4)})
    path = tmp_path / "regions" / "a.npz"
    path.write_bytes(path.read_bytes()[:200])
    refusal(source)
    with path.open("wb") as file:
        np.save(file, np.ones((4, F)))  # an .npy by another name
    refusal(source)


def test_arrays_that_are_missing_or_no_numbers_are_refused(tmp_path):
    raw = arrays(4)
    del raw["image_w"]
    source = npz(tmp_path, {"a": raw, "b": arrays(4, cls_prob=np.array([["x"] * C] * 4))})
    assert "image_w" in refusal(source)
    assert "not numbers" in refusal(source, "b")
    pickled = npz_folder(tmp_path, {"c": arrays(4, features=np.array([object()] * 4)), "d": {}})
    refusal(pickled, "c")  # never unpickled
    refusal(pickled, "d")


def test_ids_cannot_lead_out_of_a_folder(tmp_path):
    source = npz_folder(tmp_path, {})
    np.savez(tmp_path / "b.npz", **arrays(4))
    with pytest.raises(InvalidRecordError, match="outside_folder"):
        source.read("../b", 36)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.tsv", None, "does not exist"),
        ("x.csv", "", r"neither a \.tsv"),
        ("x.tsv", "image_id\tboxes\n", "no column features, image_h"),
        ("x.npz", "no zip", r"no readable \.npz"),
    ],
)
def test_mistakes_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        RegionReader(tmp_path / name, ["a"], 3)
