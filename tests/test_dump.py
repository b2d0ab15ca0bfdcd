"""A dump of products to vectors."""

import functools
import json

import numpy as np
import pytest
from exported import tiny_model, tiny_params
from products import detected, jpeg, tokenizer

from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.serving.dump import embed_dump
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError

FIRST = {"title": "red thing", "triples": [("colour", "red")]}
LINES = (
    json.dumps({"id": "a", "images": ["a.jpg"], **FIRST}),
    '{"id": "unfinished',
    '{"title": "no id"}',
    '{"id": "a", "title": "again"}',
    '{"id": "b", "title": "wool thing", "images": ["lost.jpg"]}',
    '{"id": 3, "triples": [["fibre", "wool"], ["", "x"]]}',
)


@functools.cache
def model(front_end="patches"):
    network = tiny_model(front_end=front_end)
    return ProductModel(network, tiny_params(network), tokenizer())


@pytest.fixture
def embed(tmp_path):
    """Embeds the dump; what `launch.embed` reports, and the ids and vectors that it writes."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1, size=30))
    (tmp_path / "products.jsonl").write_text("\n".join(LINES))

    def embedded(front_end="patches", **options):
        output = tmp_path / "out.npz"
        report = embed_dump(model(front_end), open_catalog("jsonl", tmp_path), output, **options)
        with np.load(output) as written:
            return report, written["ids"].tolist(), written["vectors"]

    return embedded


def test_usable_records_are_embedded_and_the_others_are_reported(embed, tmp_path):
    report, ids, vectors = embed()
    assert ids == ["a", "b", "3"]
    expected = [
        model().record("a", picture=jpeg(1, 30), **FIRST),
        model().record("b", title="wool thing"),
        model().record("3", triples=[("fibre", "wool")]),
    ]
    np.testing.assert_array_equal(vectors, model().embed(expected))
    assert '{"title": 1, "image": 2, "knowledge": 1}' in report
    assert '"repeated_id": 1' in report
    rejects = tmp_path / "out.rejects.jsonl"
    assert [(line["line"], line["reason"]) for line in map(json.loads, rejects.open())] == [
        (2, "not_json"),
        (3, "missing_id"),
        (4, "repeated_id"),
    ]

    (tmp_path / "products.jsonl").write_text("{}\n")
    assert embed()[2].shape == (0, 32)
    (tmp_path / "products.jsonl").write_text('{"id": 1}\n')
    assert embed()[1] == ["1"]
    assert not rejects.exists()


@pytest.mark.parametrize("width", [pytest.param(6, marks=pytest.mark.slow), 5])
def test_regions_of_a_detector(embed, tmp_path, width):
    seen = detected(1, width=width)
    arrays = {"image_w": 1, "image_h": 1, "boxes": seen.boxes, "features": seen.features}
    np.savez(tmp_path / "regions.npz", **{f"a/{name}": x for name, x in arrays.items()})
    given = {"region_features": str(tmp_path / "regions.npz")}
    if width == 5:
        with pytest.raises(UserError, match=r"--region_features: .* 5 numbers"):
            embed("regions", **given)
        return
    report, _, vectors = embed("regions", **given)
    assert '"image": 2' in report
    item = model("regions").record("a", regions=arrays, **FIRST)
    np.testing.assert_allclose(vectors[0], model("regions").embed([item])[0], atol=1e-5)


def test_region_features_go_with_regions(embed):
    with pytest.raises(UserError, match="--region_features: the model looks at patches"):
        embed(region_features="regions.npz")
    with pytest.raises(UserError, match="not known what made the regions"):
        embed("regions")
