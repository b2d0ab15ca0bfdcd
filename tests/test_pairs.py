"""Labelled pairs on their way from a catalog to next to its shards."""

import dataclasses
import json

import numpy as np
import pytest

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.store import pairs
from k3m_jax.data.store.pairs import Pair, PairedItem
from k3m_jax.modalities import pixels
from k3m_jax.settings import UserError
from tests.products import jpeg


def pair(a, b, **keys):
    line = {"split": "train", "a": a, "b": b, "label": 1, "kind": "test"}
    return {**line, "a_image": f"{a}.jpg", "b_image": f"{b}.jpg", **keys}


LINES = [
    pair("a", "b"),
    pair("a", "a", b_image="a2.jpg"),
    pair("c", "d", split="", label=0),
    pair("a", "x"),
    pair("a", "c"),
    pair("c", "d", split="train"),
    pair("a", "b", a_image="lost.jpg"),
    pair("a", "b", label=2),
    {"a": "a"},
]
REASONS = {
    "pair_of_unknown_item": 1,
    "pair_split_apart": 2,
    "pair_of_unknown_picture": 1,
    "bad_pair": 4,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs") / "catalog")


@pytest.fixture(scope="module")
def shards(written):
    return build(arguments(written))


@pytest.fixture
def catalog(tmp_path):
    """One to change."""
    return write(tmp_path / "catalog")


def write(folder):
    folder.mkdir()
    splits = {"a": "train", "b": "train", "c": "valid", "d": "valid"}
    records = [
        {"id": i, "product": "p", "title": i, "images": [f"{i}.jpg"], "split": split}
        for i, split in splits.items()
    ]
    (folder / "products.jsonl").write_text("\n".join(map(json.dumps, records)))
    for seed, name in enumerate([*splits, "a2"]):
        (folder / f"{name}.jpg").write_bytes(jpeg(seed, 16))
    lines = [*map(json.dumps, LINES), "[1]", "{", ""]
    (folder / pairs.PAIRS).write_text("\n".join(lines))
    return folder


def arguments(catalog, **keys):
    sizes = {"image_size": 16, "patch_size": 8, "codebook_size": 2, "vocabulary_size": 0}
    folders = {"input": str(catalog), "output": str(catalog.parent / "shards")}
    return BuildArguments("jsonl", **{**folders, **sizes, **keys})


def test_pairs_lie_next_to_the_shards_and_the_others_are_counted(shards, written):
    assert shards.info.pairs == {"train": 2, "valid": 1}
    assert shards.info.rejects == REASONS
    assert shards.pairs == [
        Pair("train", "a", "b", 1, "test", "", ""),
        Pair("train", "a", "a", 1, "test", "", "a2.jpg"),
        Pair("valid", "c", "d", 0, "test", "", ""),
    ]
    rejects = [json.loads(x) for x in (shards.folder / "rejects.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejects] == [4, 5, 6, 7, 8, 9, 10, 11]
    assert {r["file"] for r in rejects} == {"align_pairs.jsonl"}
    # A further picture is kept as the first would be.
    assert list(shards.views) == ["a2.jpg"]
    wanted = pixels.shrink((written / "a2.jpg").read_bytes(), 16, square=True)
    assert shards.views["a2.jpg"] == wanted


def test_pairs_of_first_pictures_alone_have_no_views_and_a_catalog_need_not_have_any(catalog):
    line = {"a": "a", "b": "b", "label": 1}  # all that a pair needs
    (catalog / pairs.PAIRS).write_text(json.dumps(line))
    shards = build(arguments(catalog))
    assert shards.pairs == [Pair("train", "a", "b", 1, "", "", "")]
    assert shards.views == {}
    (catalog / pairs.PAIRS).unlink()
    shards = build(arguments(catalog, overwrite=True))
    assert (shards.pairs, shards.views, dict(shards.info.pairs)) == ([], {}, {})


@pytest.mark.long
def test_beam_keeps_the_same_pairs(shards, catalog):
    pytest.importorskip("apache_beam")
    other = build(arguments(catalog, overwrite=True, beam_options="--runner=DirectRunner"))
    assert (other.pairs, other.views) == (shards.pairs, shards.views)
    assert other.info.rejects == shards.info.rejects


def test_held_out_products_alone_take_the_codebook_of_others(shards, catalog, tmp_path):
    lines = (catalog / "products.jsonl").read_text().splitlines()
    (catalog / "products.jsonl").write_text("\n".join(lines[2:]))
    output = str(tmp_path / "held_out")
    with pytest.raises(UserError, match="train split"):
        build(arguments(catalog, output=output))
    given = arguments(catalog, output=output, codebook=str(shards.folder))
    held_out = build(given)
    assert held_out.info.products == {"valid": 2}
    assert np.array_equal(held_out.codebook.centres, shards.codebook.centres)
    with pytest.raises(UserError, match="--codebook"):  # of patches of another size
        build(dataclasses.replace(given, patch_size=4, overwrite=True))


def folded(rematch):
    """Pairs of 60 products in 6 categories of two catalogs, kept where a third is held out."""
    rng = np.random.default_rng(0)
    held_out = set(rng.permutation(60)[:20].tolist())
    items = {
        f"{p}-{i}": PairedItem(
            "test" if p in held_out else "train", f"{p}-{i}.jpg", f"{p}", f"{p % 6}", "ab"[p % 2]
        )
        for p in range(60)
        for i in range(4)
    }
    lines = []
    for _ in range(600):
        p = int(rng.integers(60))
        a, b = (f"{p}-{i}" for i in rng.choice(4, 2, replace=False))
        lines.append(Pair("", a, b, 1, "same product", "", ""))
        q = (p + int(rng.choice([2, 4, 6, 12]))) % 60  # of the same catalog, all but two rematched
        kind = "same category" if (p - q) % 6 == 0 else "random"
        lines.append(Pair("", a, f"{q}-{rng.integers(4)}", 0, kind, "", "view.jpg"))
    lines = list(enumerate(lines, 1))
    return items, pairs.resolve_pairs(lines, items, lambda path: b"jpeg", rematch)


def test_folds_rematch_negative_pairs_of_a_kind_to_about_the_share_of_all():
    (_, parted), (items, kept) = folded(False), folded(True)
    shares = [
        np.mean([pair.label for pair in each.pairs if pair.split == "test"])
        for each in (parted, kept)
    ]
    assert shares[0] > 0.7
    assert 0.5 <= shares[1] < 0.55  # some halves find none
    assert kept.rematched == len(kept.pairs) - len(parted.pairs)
    assert kept.rejects == parted.rejects
    assert {pair.kind for pair in kept.pairs} == {"same product", "same category", "random"}
    for pair in kept.pairs:
        a, b = items[pair.a], items[pair.b]
        assert a.split == b.split == pair.split
        assert (a.product == b.product) == pair.label
        assert (a.category == b.category) == (pair.kind != "random")
        assert a.source == b.source
        assert pair.b_image == ("" if pair.label else "view.jpg")  # goes with its half


def test_halves_of_one_product_are_not_matched():
    items = {
        i: PairedItem(s, "", p, "", "") for i, s, p in (("a", "train", "p"), ("b", "test", "q"))
    }
    lines = [(1, Pair("", "a", "b", 0, "", "", "")), (2, Pair("", "b", "a", 0, "", "", ""))]
    kept = pairs.resolve_pairs(lines, items, lambda path: b"", rematch=True)
    assert (kept.pairs, len(kept.rejects)) == ([], 2)
