"""The page that goes along with an exported model, held against the rooms that it stands for."""

import dataclasses
import io
import json

import numpy as np
import pytest
from exported import tiny_model
from PIL import Image
from products import detected, jpeg, tokenizer

from k3m_jax.serving.folder import portable
from k3m_jax.serving.preprocess import Preprocessor
from k3m_jax.serving.product_arrays import ProductArrays


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


def write_folder(folder, network):
    tokenizer().save(folder)
    settings = dataclasses.asdict(portable(network.settings))
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    return Preprocessor(folder)


def assert_same(given, expected):
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        assert given[name].dtype == array.dtype, name
        np.testing.assert_array_equal(given[name], array, err_msg=name)


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_pictures_titles_and_triples(tmp_path, preset):
    network = tiny_model(preset=preset)
    arrays = ProductArrays(network.settings, tokenizer())
    parts = [
        {"title": title, "triples": triples, "picture": data}
        for title, triples, data in zip(TITLES, TRIPLES, PICTURES, strict=True)
    ]
    records = [arrays.record("x", **each) for each in parts]
    assert_same(write_folder(tmp_path, network)(parts), arrays(records, rows=len(records)))


@pytest.mark.parametrize("front_end", ["patches", "regions"])
def test_none_is_absent_and_of_no_products_there_are_no_rows(tmp_path, front_end):
    preprocess = write_folder(tmp_path, tiny_model(front_end=front_end))
    keys = ("title", "triples", "picture", "boxes", "features")
    absent = preprocess([{}])
    assert_same(preprocess([dict.fromkeys(keys)]), absent)
    assert_same(preprocess([]), {name: array[:0] for name, array in absent.items()})


@pytest.mark.parametrize("boxes", [0, 1, 4])
def test_regions(tmp_path, boxes):
    network = tiny_model(front_end="regions")
    arrays = ProductArrays(network.settings, tokenizer())
    seen = {key: detected(3, boxes)[key] for key in ("boxes", "features")}
    assert_same(write_folder(tmp_path, network)([seen, {}]), arrays([seen, {}], rows=2))
