"""The preprocessing that an exported folder ships gives the library's own arrays."""

import dataclasses
import importlib
import io
import json
import re
import sys

import numpy as np
import pytest
from conftest import ROOT
from exported import tiny_model
from PIL import Image
from products import detected, having, jpeg, record, tokenizer

from k3m_jax.modalities import REGISTRY
from k3m_jax.model.network import Network
from k3m_jax.serving.export import PACKAGE, portable, write_preprocessing
from k3m_jax.serving.product_model import ProductModel


def picture(mode, size, form, **options):
    """A file of noise."""
    rng = np.random.default_rng(size)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
    file = io.BytesIO()
    image.convert(mode).save(file, form, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("RGB", (40, 20), "JPEG", exif=exif)


PICTURES = (
    None,
    jpeg(1),
    picture("RGB", (300, 200), "JPEG"),
    picture("RGBA", (9, 31), "PNG"),
    picture("P", (20, 20), "GIF"),
    picture("L", (7, 5), "PNG"),
    turned(),
)
TITLES = ("red thing of wool", "", "  \n", "thing " * 30, "[SEP] über ☃", "velti", "a")
TRIPLES = (
    [("colour", "red"), ("fibre", "wool")],
    [],
    [("colour", " red"), ("colour", "red "), ("", "x"), ("brand", " ")],
    [("fibre", "wool " * 40), ("colour", "red")],
    [("brand", "thing " * 9), ("colour " * 6, "red " * 6), ("colour", "red")],
    [("☃", "☃")],
    [(f"colour {n}", "red") for n in range(30)],
)


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Opens what a folder of a model ships, imported from there."""

    def opened(network):
        tokenizer().save(tmp_path)
        names = write_preprocessing(tmp_path, network.settings)
        config = {"settings": dataclasses.asdict(portable(network.settings)), "modalities": names}
        (tmp_path / "config.json").write_text(json.dumps(config))
        for name in [n for n in sys.modules if n.split(".")[0] in ("preprocess", PACKAGE)]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module("preprocess").Preprocessor(tmp_path)

    return opened


def assert_same(given, expected):
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        assert given[name].dtype == array.dtype, name
        np.testing.assert_array_equal(given[name], array, err_msg=name)


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_pictures_titles_and_triples(ship, preset):
    network = tiny_model(preset=preset)
    model = ProductModel(network, {}, tokenizer())
    values = zip(TITLES, TRIPLES, PICTURES, strict=True)
    parts = [dict(zip(("title", "triples", "picture"), each, strict=True)) for each in values]
    records = [model.record("x", **each) for each in parts]
    assert_same(ship(network)(parts), model.arrays(records, rows=len(records)))


@pytest.mark.parametrize("front_end", ["patches", "regions"])
def test_none_is_absent_and_no_products_are_no_rows(ship, front_end):
    preprocess = ship(tiny_model(front_end=front_end))
    absent = preprocess([{}])
    keys = ("title", "triples", "picture", "boxes", "features")
    assert_same(preprocess([dict.fromkeys(keys)]), absent)
    assert_same(preprocess([]), {name: array[:0] for name, array in absent.items()})


@pytest.mark.parametrize("boxes", [0, 1, 6])
def test_regions(ship, boxes):
    network = tiny_model(front_end="regions")
    model = ProductModel(network, {}, tokenizer())
    picture = dataclasses.replace(detected(3, boxes), class_probs=np.zeros((boxes, 0)))
    records = [having(record(1, [], title=""), image=picture), model.record("nothing")]
    products = [{"boxes": picture.boxes.tolist(), "features": picture.features}, {}]
    assert_same(ship(network)(products), model.arrays(records, rows=2))


REVIEWS = """
import numpy as np

from k3m_jax.modalities.base import Array, clean_text
from k3m_jax.modalities.knowledge import Title


class Reviews(Title):
    name, keys = "reviews", ("reviews",)

    @classmethod
    def parse(cls, line, repairs):
        return clean_text(line.get("reviews"), "reviews", repairs)

    @property
    def arrays(self):
        return {"reviews_length": Array((1,), np.int32, "tokens")}

    def encode(self, contents, tokenizer, generators):
        return len(tokenizer.encode(contents["reviews"]))

    def write(self, row, encoded):
        row["reviews_length"][:] = encoded
"""


def test_the_file_of_a_further_modality_is_shipped(ship, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "reviews.py").write_text(REVIEWS)
    monkeypatch.syspath_prepend(own)
    monkeypatch.setitem(REGISTRY, "reviews", importlib.import_module("reviews").Reviews)
    chosen = tiny_model().settings
    extra = dataclasses.replace(chosen.model, extra_modalities=("reviews",))
    network = Network(dataclasses.replace(chosen, model=extra))
    model = ProductModel(network, {}, tokenizer())
    parts = [{"title": "red thing", "reviews": " red red "}, {}]
    given = ship(network)(parts)
    assert given["reviews_length"].tolist() == [[2], [0]]
    assert_same(given, model.arrays([model.record("x", **each) for each in parts], rows=2))


def test_shipped_files_import_nothing_of_the_library(ship, tmp_path):
    ship(tiny_model())
    texts = [path.read_text() for path in tmp_path.rglob("*.py")]
    imported = re.findall(r"^(?:from|import) (\w+)", "\n".join(texts), re.MULTILINE)
    assert len(texts) == 1 + len(list((ROOT / "k3m_jax" / "modalities").glob("[a-z]*.py")))
    assert set(imported).isdisjoint({"k3m_jax", "jax", "flax", "absl"})
