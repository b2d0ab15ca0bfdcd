"""The embedded catalogue: its bytes, its facts, its texts and its pictures."""

import collections
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from k3m_jax.settings import UserError
from k3m_jax.synthetic_shop.assortment import FAMILIES
from k3m_jax.synthetic_shop.catalogue import draw_contact_sheet, make_catalogue, make_items
from k3m_jax.synthetic_shop.modality_overlap import (
    TRIPLES_ONLY,
    VISIBLE,
    assign_modalities,
    write_title,
)
from k3m_jax.synthetic_shop.pictures import COLORS, PATTERNS, SHAPES, Design, Look, draw
from k3m_jax.synthetic_shop.products import BRAND_OF, TYPICAL, draw_product
from k3m_jax.synthetic_shop.silhouettes import BODY

FILES = ("products.jsonl", "align_pairs.jsonl")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def some_products(count):
    return [draw_product(np.random.default_rng([7, number])) for number in range(count)]


def look(**changes):
    design = Design(3.0, 0.2, 0, 0.2, (0.0, 0.0))
    plain = Look("shirt", "round", "", "blue", "white", "plain", "regular", design)
    return Look(**{**vars(plain), **changes})


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "shop"
    counts = make_catalogue(folder, 200, seed=3, overlap=0.5, image_size=32)
    items, pairs = (read(folder / name) for name in FILES)
    return folder, counts, items, pairs


def test_texts_have_a_known_digest(catalogue):
    """A change would make all results on the embedded catalogue incomparable with earlier ones."""
    texts = b"".join((catalogue[0] / name).read_bytes() for name in FILES)
    assert hashlib.sha256(texts).hexdigest()[:16] == "4de406df773c8f0e"


def test_bytes_depend_neither_on_the_number_of_products_nor_on_workers(tmp_path, catalogue):
    folder, _, items, _ = catalogue
    make_catalogue(tmp_path / "few", 12, seed=3, overlap=0.5, image_size=32, workers=1)
    few = read(tmp_path / "few" / "products.jsonl")
    assert few == items[: len(few)]
    for path, data in contents(tmp_path / "few" / "images").items():
        assert (folder / "images" / path).read_bytes() == data
    make_catalogue(tmp_path / "other", 12, seed=4, overlap=0.5, image_size=32)
    assert contents(tmp_path / "few") != contents(tmp_path / "other")


def test_counts_match_the_files(catalogue):
    folder, counts, items, pairs = catalogue
    assert counts["items"] == len(items) == len({item["id"] for item in items})
    assert counts["products"] == len({item["product"] for item in items}) == 200
    assert counts["pairs"] == len(pairs)
    named = [path for item in items for path in item["images"]]
    assert counts["pictures"] == len(named) == len(list(folder.rglob("*.jpg")))
    for path in named:
        with Image.open(folder / path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (32, 32))
    assert len(items) / 200 == pytest.approx(2.2, abs=0.3)


def test_format_matches_real_catalogues(catalogue, shared):
    _, _, items, pairs = catalogue
    for ours, name in zip((items, pairs), FILES, strict=True):
        real = read(shared / "data" / "catalogue" / name)
        for row in ours:
            assert list(row) == list(real[0])
            assert {k: type(v) for k, v in row.items()} == {k: type(v) for k, v in real[0].items()}
    assert {row["kind"] for row in pairs} <= {row["kind"] for row in real}
    assert all(len(triple) == 2 for item in items for triple in item["triples"])
    assert all(len(item["views"]) == len(item["images"]) for item in items)


def test_no_product_is_in_two_splits(catalogue):
    splits = collections.defaultdict(set)
    for item in catalogue[2]:
        splits[item["product"]].add(item["split"])
    assert all(len(names) == 1 for names in splits.values())
    sizes = collections.Counter(name for names in splits.values() for name in names)
    assert sizes == {"train": 160, "valid": 20, "test": 20}


def test_few_items_lack_one_modality_and_none_lacks_two(catalogue):
    _, counts, items, _ = catalogue
    missing = [[not item[key] for key in ("images", "title", "triples")] for item in items]
    assert max(map(sum, missing)) == 1
    for share in np.mean(missing, 0):
        assert 0.005 < share < 0.07
    assert counts["without picture"] == sum(row[0] for row in missing)


def test_pairs_are_labelled_by_product_and_color(catalogue):
    _, _, items, pairs = catalogue
    by_id = {item["id"]: item for item in items}
    for pair in pairs:
        a, b = by_id[pair["a"]], by_id[pair["b"]]
        same = pair["a"].rsplit("-", 1)[0] == pair["b"].rsplit("-", 1)[0]
        assert pair["label"] == same
        assert pair["split"] == a["split"] == b["split"]
        assert pair["a_image"] in a["images"]
        assert pair["b_image"] in b["images"]
        assert pair["a_image"] != pair["b_image"]
        if pair["kind"] == "same category":
            assert a["category"] == b["category"]
        assert (a["product"] == b["product"]) == (pair["kind"] not in ("same category", "random"))
    labels = collections.Counter(pair["label"] for pair in pairs)
    assert 0.85 < labels[0] / labels[1] <= 1


def test_three_properties_and_more_have_over_thirty_values():
    values = collections.defaultdict(collections.Counter)
    for product in some_products(1500):
        for name, found in product.facts_in(product.colors[0]).items():
            values[name].update(found)
    for name in ("color", "accent color", "brand", "series", "country of origin"):
        assert len(values[name]) > 30, name
        _, commonest = values[name].most_common(1)[0]
        assert commonest < 0.2 * values[name].total()  # so always naming it does not suffice


def test_categories_have_properties_of_their_own():
    named = collections.Counter(name for f in FAMILIES for name in (f.detail, f.measure))
    assert sum(count == 1 for count in named.values()) >= 12


def test_facts_hint_at_each_other():
    products = some_products(800)
    own = sum(p.facts["series"][0] in p.category.series for p in products) / len(products)
    assert own == pytest.approx(TYPICAL, abs=0.05)
    by_series = collections.defaultdict(collections.Counter)
    for product in products:
        (series,), (brand,) = product.facts["series"], product.facts["brand"]
        assert BRAND_OF[series] == brand
        by_series[series].update(product.facts["material"])
    guessed = sum(max(materials.values()) for materials in by_series.values())
    commonest = sum(by_series.values(), collections.Counter()).most_common(1)[0][1]
    assert guessed > 3 * commonest


def test_overlap_is_the_probability_that_a_fact_is_repeated():
    products = some_products(100)

    def at(overlap):
        return [
            assign_modalities(p.family, p.facts_in(p.colors[0]), np.random.default_rng(i), overlap)
            for i, p in enumerate(products)
        ]

    levels = [at(overlap) for overlap in (0.0, 0.3, 0.8, 1.0)]
    for less, more in itertools.pairwise(levels):
        for before, after in zip(less, more, strict=True):
            assert all(before[name] <= after[name] for name in before)
    shares = [
        np.mean(
            [
                len(modalities) > 1
                for facts in level
                for name, modalities in facts.items()
                if name not in TRIPLES_ONLY
            ]
        )
        for level in levels
    ]
    assert 0 == shares[0] < shares[1] < shares[2] < shares[3] == 1
    for facts in levels[3]:
        assert facts["color"] == {"picture", "title", "triples"}
        assert facts["brand"] == {"title", "triples"}
        assert facts["care"] == {"triples"}


@pytest.mark.parametrize(("overlap", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_overlap_shows_in_the_records(overlap, share):
    items = [
        record
        for number in range(60)
        for record, _ in make_items(1, number, overlap=overlap, image_size=16)
        if record["triples"] and record["title"]
    ]
    for name in VISIBLE:
        in_triples = np.mean([name in dict(item["triples"]) for item in items])
        assert in_triples == pytest.approx(share, abs=0.15)
    in_title = np.mean(
        [any(word in item["title"].lower().split() for word in COLORS) for item in items]
    )
    assert in_title == pytest.approx(1 - (1 - share) ** 2, abs=0.2)  # its color, or the accent


def test_titles_contain_their_facts_in_many_ways():
    contained, titles = [], set()
    for number, product in enumerate(some_products(200)):
        rng = np.random.default_rng(number)
        facts = product.facts_in(product.colors[0])
        modalities = assign_modalities(product.family, facts, rng, 1.0)
        title = write_title(product.family, product.category, facts, modalities, rng, 1.0)
        titles.add(title)
        for name in facts.keys() - set(TRIPLES_ONLY):
            words = ["no" if value == "none" else value.lower() for value in facts[name]]
            contained += [word in title.lower() for word in words]
    assert np.mean(contained) > 0.97  # the rest: typing errors and abbreviations
    assert len(titles) == 200
    assert any(ord(max(title)) > 0xFFFF for title in titles)  # emoji
    assert any(title.isupper() for title in titles)


def test_titles_omit_facts_of_other_modalities():
    product = some_products(1)[0]
    facts = product.facts_in(product.colors[0])
    for seed in range(50):
        rng = np.random.default_rng(seed)
        modalities = {name: {"triples"} for name in facts}
        title = write_title(product.family, product.category, facts, modalities, rng, 0.5)
        words = title.lower().split()
        assert not any(value.lower() in words for values in facts.values() for value in values)


def test_the_color_is_in_the_pixels():
    named = np.array(list(COLORS.values()), float)
    right = []
    for seed, (name, color) in enumerate(COLORS.items()):
        pixels, parts = draw(look(color=name), np.random.default_rng(seed), 64)
        body = np.median(pixels[parts == BODY], 0)
        assert np.abs(body - np.array(color)).max() < 60
        right.append(np.argmin(((named - body) ** 2).sum(1)) == seed)
    assert np.mean(right) > 0.75


def test_colors_are_distinct():
    named = np.array(list(COLORS.values()), float)
    distances = np.sqrt(((named[:, None] - named[None]) ** 2).sum(-1)) + 1000 * np.eye(len(named))
    assert len(COLORS) > 30
    assert distances.min() > 30


def test_patterns_keep_the_main_color_dominant():
    for pattern in PATTERNS:
        changed = look(color="red", accent="blue", pattern=pattern)
        pixels, parts = draw(changed, np.random.default_rng(2), 64)
        body = pixels[parts == BODY].astype(int)
        assert np.mean(body[:, 0] > body[:, 2]) > 0.5, pattern


def test_every_visible_property_changes_the_picture():
    def pixels(**changes):
        return draw(look(**changes), np.random.default_rng(4), 64)[0].astype(int)

    def assert_all_differ(pictures):
        for i, a in enumerate(pictures):
            for b in pictures[:i]:
                assert (np.abs(a - b).max(-1) > 40).sum() > 25

    for family in FAMILIES:
        kinds = {c.silhouette: c.mark for c in family.categories}
        for silhouette, mark in kinds.items():
            details = [pixels(silhouette=silhouette, detail=d) for d in family.details]
            assert_all_differ(details)
            if mark:
                marked = pixels(silhouette=silhouette, detail=family.details[0], mark=mark)
                assert_all_differ([details[0], marked])
    assert_all_differ([pixels(pattern=pattern) for pattern in PATTERNS])
    assert_all_differ([pixels(shape=shape) for shape in SHAPES])


def test_every_product_shows_its_accent_color():
    for product in some_products(200):
        assert product.facts["pattern"] != ("plain",) or product.design.emblem_points


def test_two_photographs_differ_and_products_have_their_own_design():
    a, b = (draw(look(), np.random.default_rng(seed), 64)[0].astype(int) for seed in (0, 1))
    assert np.abs(a - b).mean() > 5
    emblem = look(design=Design(3.0, 0.2, 5, 0.2, (0.0, 0.0)))
    c = draw(emblem, np.random.default_rng(0), 64)[0].astype(int)
    assert (np.abs(a - c).max(-1) > 40).sum() > 20


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overlap": 1.5}, "overlap"),
        ({"overlap": float("nan")}, "overlap"),
        ({"products": 0}, "products"),
        ({"seed": -1}, "seed"),
        ({"image_size": 4}, "image_size"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_it(tmp_path, changes, named):
    arguments = {"products": 2, "seed": 0, "overlap": 0.5, **changes}
    with pytest.raises(UserError, match=named):
        make_catalogue(tmp_path / "shop", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_changed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        make_catalogue(tmp_path, 2, seed=0, overlap=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interrupted_run_leaves_no_finished_folder(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_catalogue(folder, 2, seed=0, overlap=0.5, image_size=16)
    assert not folder.exists()
    make_catalogue(folder, 2, seed=0, overlap=0.5, image_size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_the_contact_sheet_has_a_column_per_family(catalogue, tmp_path):
    draw_contact_sheet(catalogue[0], tmp_path / "figures" / "sheet.png", each=2, tile=16)
    with Image.open(tmp_path / "figures" / "sheet.png") as sheet:
        assert sheet.size == (len(FAMILIES) * 16, 4 * 16)
        assert all(
            len(sheet.crop((c * 16, 0, c * 16 + 16, 16)).getcolors()) > 4
            for c in range(len(FAMILIES))
        )
