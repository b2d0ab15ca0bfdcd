"""A dump of products to parts of vectors and answers."""

import functools
import json
import tracemalloc

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from exported import tiny_model, tiny_params
from products import detected, jpeg, tokenizer

from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.serving.bulk import Share
from k3m_jax.serving.dump import job_of, vector_table, vectors_of
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError

FIRST = {"title": "red thing", "triples": [("colour", "red")]}
LINES = (
    json.dumps({"id": "a", "images": ["a.jpg"], **FIRST}),
    '{"id": "unfinished',
    '{"title": "no id"}',
    '{"id": "a", "title": "again"}',
    '{"id": "b", "title": "wool thing", "images": ["lost.jpg"], "product": "' + "p" * 300 + '"}',
    '{"id": 3, "triples": [["fibre", "wool"], ["", "x"]], "split": "valid"}',
)


@functools.cache
def model(front_end="patches", devices=1):
    network = tiny_model(front_end=front_end)
    rest = {"devices": jax.local_devices()[:devices]}
    return ProductModel(network, tiny_params(network), tokenizer(), **rest)


@pytest.fixture
def dump(tmp_path):
    folder = tmp_path / "dump"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(1, size=30))
    (folder / "products.jsonl").write_text("\n".join(LINES))
    return folder


def embed(dump, name="out", front_end="patches", *, dtype="float32", region_features="", **options):
    """Embeds a dump; the report, and the table of all parts."""
    seen = model(front_end, options.pop("devices", 1))
    output = epath.Path(dump.parent / name)
    about, options = {"dtype": dtype}, {"rows": 2, "region_features": region_features} | options
    job = job_of(seen, open_catalog("jsonl", dump), output, about, **options)
    report = job.write(functools.partial(vector_table, seen, dtype=dtype))
    return report, pq.read_table(str(output)) if any(output.glob("*.parquet")) else None


def many(dump, count):
    lines = (json.dumps({"id": f"id{i}", "title": f"red thing of {i % 200}"}) for i in range(count))
    (dump / "products.jsonl").write_text("\n".join(lines))


def test_usable_records_are_embedded_and_the_others_are_reported(dump):
    report, table = embed(dump)
    assert table["id"].to_pylist() == ["a", "b", "3"]
    assert table["product"].to_pylist() == ["a", "p" * 300, "3"]
    expected = model().embed(
        [
            model().record("a", picture=jpeg(1, 30), **FIRST),
            model().record("b", title="wool thing"),
            model().record("3", triples=[("fibre", "wool")]),
        ]
    )
    np.testing.assert_allclose(vectors_of(table), expected, atol=1e-5)
    assert '{"title": 1, "image": 2, "knowledge": 1}' in report
    assert '"repeated_id": 1' in report
    files = sorted(dump.parent.glob("out/*.rejects.jsonl"))
    rejects = [json.loads(line) for file in files for line in file.open()]
    assert [(line["line"], line["reason"]) for line in rejects] == [
        (2, "not_json"),
        (3, "missing_id"),
        (4, "repeated_id"),
    ]


def test_a_dump_without_products_has_an_empty_part(dump):
    (dump / "products.jsonl").write_text("{}\n")
    assert embed(dump)[1].num_rows == 0


def test_a_split_alone(dump):
    assert embed(dump, split="valid")[1]["id"].to_pylist() == ["3"]


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("int8", 2e-2)])
def test_smaller_vectors(dump, dtype, error):
    whole, small = embed(dump)[1], embed(dump, "small", dtype=dtype)[1]
    assert str(small["vector"].type.value_type) in ("halffloat", "int8")
    np.testing.assert_allclose(vectors_of(small), vectors_of(whole), atol=error)


def test_processes_share_the_parts_and_what_was_stopped_goes_on(dump):
    many(dump, 23)
    whole = embed(dump, "whole", rows=5)[1]
    for share in (Share(1, 2), Share(2, 2)):
        embed(dump, "shared", rows=5, share=share)
    stopped = epath.Path(dump.parent / "stopped")
    embed(dump, "stopped", rows=5)
    for name in ("part-00001.parquet", "part-00003.parquet"):
        (stopped / name).unlink()
    (stopped / ".part-00001.parquet.partial").write_text("half of it")
    kept = (stopped / "part-00000.parquet").stat().mtime
    report, resumed = embed(dump, "stopped", rows=5)
    assert "10 rows in 2 parts" in report
    assert (stopped / "part-00000.parquet").stat().mtime == kept
    assert resumed.equals(whole)
    assert pq.read_table(str(dump.parent / "shared")).equals(whole)
    assert len(list(stopped.glob("part-*.parquet"))) == 5


def test_eight_devices_are_as_one(dump):
    many(dump, 70)
    one, eight = embed(dump, "one", rows=64)[1], embed(dump, "eight", rows=64, devices=8)[1]
    assert one["id"].equals(eight["id"])
    np.testing.assert_allclose(vectors_of(one), vectors_of(eight), atol=1e-5)


def test_parts_of_something_else_are_left_alone(dump):
    embed(dump)
    with pytest.raises(UserError, match="parts of another dtype"):
        embed(dump, dtype="int8")
    with (dump / "products.jsonl").open("a") as file:
        file.write('\n{"id": "new"}')
    with pytest.raises(UserError, match="parts of another input"):
        embed(dump)
    (dump.parent / "mine").mkdir()
    (dump.parent / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        embed(dump, "mine")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dump(dump):
    """Ten times as many products add the 8 bytes of each id and little else."""
    peaks = []
    for count in (300, 3000):
        many(dump, count)
        tracemalloc.start()
        embed(dump, f"out{count}", rows=128)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000, peaks


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/2/3", "a/b"])
def test_a_share_that_is_none(text):
    with pytest.raises(UserError, match="--part="):
        Share.parse(text)
    assert Share.parse("2/4") == (2, 4)


@pytest.mark.parametrize("width", [pytest.param(6, marks=pytest.mark.slow), 5])
def test_regions_of_a_detector(dump, width):
    seen = detected(1, width=width)
    arrays = {"image_w": 1, "image_h": 1, "boxes": seen.boxes, "features": seen.features}
    np.savez(dump / "regions.npz", **{f"a/{name}": x for name, x in arrays.items()})
    given = {"region_features": str(dump / "regions.npz")}
    if width == 5:
        with pytest.raises(UserError, match=r"--region_features: .* 5 numbers"):
            embed(dump, front_end="regions", **given)
        return
    report, table = embed(dump, front_end="regions", **given)
    assert '"image": 2' in report
    item = model("regions").record("a", regions=arrays, **FIRST)
    np.testing.assert_allclose(vectors_of(table)[0], model("regions").embed([item])[0], atol=1e-5)


def test_region_features_go_with_regions(dump):
    with pytest.raises(UserError, match="--region_features: the model looks at patches"):
        embed(dump, region_features="regions.npz")
    with pytest.raises(UserError, match="not known what made the regions"):
        embed(dump, front_end="regions")
    with pytest.raises(UserError, match=r"launch\.extract_regions"):
        embed(dump, front_end="regions", share=Share(1, 2))
