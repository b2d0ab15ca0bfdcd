"""A dump of products to vectors."""

import json

import numpy as np
import pytest
from exported import tiny_model, tiny_params
from products import detected, jpeg, tokenizer

from k3m_jax.serving.dump import embed_dump
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError

GOOD = [
    {"id": "a", "title": "red thing", "triples": [["colour", "red"]], "images": ["a.jpg"]},
    {"id": "b", "title": "wool thing", "images": ["lost.jpg"]},
    {"id": 3, "triples": [["fibre", "wool"], ["", "x"]]},
]
BAD = ['{"id": "unfinished', '{"title": "no id"}', '{"id": "a", "title": "again"}']


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump")
    (folder / "a.jpg").write_bytes(jpeg(1, size=30))
    lines = [json.dumps(each) for each in GOOD]
    lines[1:1] = BAD
    (folder / "products.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def model():
    return ProductModel(tiny_model(), tiny_params(tiny_model()), tokenizer())


def test_usable_records_are_embedded_and_the_others_are_told(dump, model, tmp_path):
    found = embed_dump(model, "jsonl", str(dump))
    assert found.ids == ["a", "b", "3"]
    assert found.missing == {"picture": 2, "title": 1, "triples": 1}
    expected = [
        model.record("a", title="red thing", triples=[("colour", "red")], picture=jpeg(1, 30)),
        model.record("b", title="wool thing"),
        model.record("3", triples=[("fibre", "wool")]),
    ]
    np.testing.assert_array_equal(found.vectors, model.embed(expected))

    found.save(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert written["ids"].tolist() == found.ids
        np.testing.assert_array_equal(written["vectors"], found.vectors)
    told = [json.loads(line) for line in (tmp_path / "out.rejects.jsonl").open()]
    assert [(r["line"], r["reason"]) for r in told] == [
        (2, "not_json"),
        (3, "missing_id"),
        (4, "repeated_id"),
    ]
    report = found.report(tmp_path / "out.npz")
    assert "3 products as 32 numbers each" in report
    assert '"repeated_id": 1' in report
    found.rejects.clear()
    found.save(tmp_path / "out.npz")
    assert not (tmp_path / "out.rejects.jsonl").exists()


def test_a_dump_without_a_usable_record_is_no_vector(model, tmp_path):
    (tmp_path / "products.jsonl").write_text("{}\n")
    found = embed_dump(model, "jsonl", str(tmp_path))
    assert found.vectors.shape == (0, 32)
    assert [r.reason for r in found.rejects] == ["missing_id"]


@pytest.mark.parametrize("width", [pytest.param(6, marks=pytest.mark.slow), 5])
def test_regions_of_a_detector(dump, tmp_path, width):
    network = tiny_model(front_end="regions")
    model = ProductModel(network, tiny_params(network), tokenizer())
    seen = detected(1, width=width)
    arrays = {"image_w": 1, "image_h": 1} | {k: seen[k] for k in ("boxes", "features")}
    np.savez(tmp_path / "regions.npz", **{f"a/{name}": x for name, x in arrays.items()})
    given = {"region_features": str(tmp_path / "regions.npz")}
    if width == 5:
        with pytest.raises(UserError, match="has 5 numbers per region, the model looks at 6"):
            embed_dump(model, "jsonl", str(dump), **given)
        return
    found = embed_dump(model, "jsonl", str(dump), **given)
    assert found.missing["picture"] == 2
    items = [model.record("a", title="red thing", triples=[("colour", "red")], regions=arrays)]
    np.testing.assert_allclose(found.vectors[:1], model.embed(items * 2)[:1], atol=1e-5)


def test_region_features_go_with_regions(dump, model):
    with pytest.raises(UserError, match="--region_features: the model looks at patches"):
        embed_dump(model, "jsonl", str(dump), region_features="regions.npz")
    network = tiny_model(front_end="regions")
    model = ProductModel(network, tiny_params(network), tokenizer())
    with pytest.raises(UserError, match="--region_features: the model looks at regions"):
        embed_dump(model, "jsonl", str(dump))
