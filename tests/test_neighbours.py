"""Exact neighbours over devices, recall and its floors, duplicates, and the gallery."""

import html.parser
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from products import COLOURS, jpeg

from k3m_jax.applications import floors, gallery
from k3m_jax.applications.neighbours import Items, VectorIndex, choose_threshold, unit
from k3m_jax.serving.bulk import write_table
from k3m_jax.settings import UserError
from launch.cli import EXIT_USER_ERROR, run_command
from tests.products import having, record

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> & \"thing\""


def vectors(count, width=16, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count", [3, 37])
def test_neighbours_are_those_of_brute_force(devices, count):
    known = vectors(count)
    known[2] = known[0]  # a tie
    scores = known @ known.T
    index = VectorIndex(known, jax.local_devices()[:devices])
    found = list(index.neighbours(known, range(count), 10))
    for row, (near, rows) in enumerate(found):
        order = [i for i in np.argsort(-scores[row], kind="stable") if i != row][:10]
        assert len(rows) == min(10, count - 1)
        np.testing.assert_allclose(near, scores[row][order], atol=1e-5)
        assert set(rows.astype(int)) == set(order)


def test_recall_counts_the_other_items_of_a_product():
    products = ["a", "a", "a", "b", "b", "c"]
    found = np.array([[1, 3, 2], [3, 4, 5], [0, 1, 3], [4, 0, 1], [0, 1, 2]])
    own = floors.with_others(products, 10)
    assert own.tolist() == [0, 1, 2, 3, 4]
    assert floors.recall(found, own, products, 1).tolist() == [1, 0, 1, 1, 0]
    assert floors.recall(found, own, products, 3).tolist() == [1, 0, 1, 1, 0]
    assert floors.recall(found, own, products, 2).tolist() == [0.5, 0, 1, 1, 0]
    assert floors.with_others(products, 2).tolist() == floors.with_others(products, 2).tolist()


def test_floors_are_those_of_brute_force():
    titles = ["red thing", "Red  THING", "red", "", "blue thing of wool"]
    assert floors.nearest_titles(titles, [0, 4], 2).tolist() == [[1, 2], [0, 1]]
    pixels = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    pixels[3] = np.nan
    near = floors.nearest_pictures(pixels, [0, 5], 7)
    distance = np.linalg.norm(pixels[:, None] - pixels, axis=2)
    for row, found in zip((0, 5), near, strict=True):
        known = [i for i in np.argsort(distance[row]) if i not in (row, 3)]
        assert found.tolist() == known


def catalogue(folder):
    """Sixteen items of eight products, and their vectors: two of a product are near."""
    (folder / "dump" / "p").mkdir(parents=True)
    lines, base = [], vectors(8)
    for number in range(16):
        (folder / "dump" / "p" / f"{number}.jpg").write_bytes(jpeg(number, 20))
        triples = [["colour", COLOURS[number % 8]], [HOSTILE, HOSTILE]]
        item = {"id": f"i{number}", "product": f"p{number // 2}", "title": f"{HOSTILE} {number}"}
        lines.append(
            item | {"triples": triples[: 2 - (number == 3)], "images": [f"p/{number}.jpg"]}
        )
    (folder / "dump" / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    noise = vectors(16, seed=1) * 0.2
    near = np.repeat(base, 2, 0) + noise
    table = pa.table(
        {
            "id": [line["id"] for line in lines],
            "product": [line["product"] for line in lines],
            "vector": pa.FixedSizeListArray.from_arrays(near.astype(np.float32).ravel(), 16),
        }
    )
    (folder / "vectors").mkdir()
    write_table(folder / "vectors" / "part-00000.parquet", table)
    pairs = [
        {"a": f"i{a}", "b": f"i{b}", "label": int(a // 2 == b // 2)}
        for a, b in [(0, 1), (2, 3), (0, 2), (1, 3), (4, 5), (6, 7), (4, 6), (9, 14)]
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    folder = catalogue(tmp_path_factory.mktemp("shop"))
    flags = [f"--vectors={folder / 'vectors'}", f"--output={folder / 'near'}", "--k=3"]
    flags += [f"--pairs={folder / 'pairs.jsonl'}", "--format=jsonl", f"--input={folder / 'dump'}"]
    assert run_command("launch.neighbours", flags) == 0
    return folder / "near"


def test_the_command_writes_neighbours_duplicates_and_recall(explored):
    near = pq.read_table(explored / "neighbours.parquet").to_pylist()
    assert [row["id"] for row in near] == [f"i{n}" for n in range(16)]
    assert all(row["neighbours"][0] == f"i{n ^ 1}" for n, row in enumerate(near))
    pairs = pq.read_table(explored / "duplicates.parquet").to_pylist()
    assert {(row["a"], row["b"]) for row in pairs if row["known"]} == {
        (f"i{n}", f"i{n + 1}") for n in range(0, 16, 2)
    }
    assert [row["score"] for row in pairs] == sorted((r["score"] for r in pairs), reverse=True)
    report = json.loads((explored / "neighbours-all.json").read_text())["metrics"]["recall@3"]
    assert report["value"] == 1
    assert report["baselines"].keys() == {"title words", "raw pixels"}


class Tags(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.sources, self.text = set(), [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_the_gallery_is_one_file_with_escaped_text(explored):
    page = (explored / "gallery.html").read_text()
    seen = Tags(page)
    assert "script" not in seen.tags
    assert f"{HOSTILE} 3" in seen.text
    assert seen.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in seen.sources)
    assert page.count("<article>") == 16
    assert "would be filled in" in seen.text  # of item 3, which lacks what its neighbours have


@pytest.mark.slow
def test_the_gallery_in_a_browser(explored, tmp_path):
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium: install one, or name it in $CHROMIUM")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    page = (explored / "gallery.html").as_uri()
    done = subprocess.run([browser, *flags, "--dump-dom", page], capture_output=True, text=True)
    assert done.stdout.count("<article>") == 16
    assert "<script" not in done.stdout


def test_what_a_product_lacks_is_what_half_of_its_neighbours_have():
    own = record(0, [("Colour", "red")])
    near = [record(1, [("colour", "red"), ("Fit", "slim")]), record(2, [("fit", "wide")])]
    near += [record(3, [("fit", "wide"), ("care", "hand")]), record(4, [])]
    assert gallery.lacking(own, near) == ["Fit"]
    assert gallery.lacking(having(own, knowledge=(("fit", "slim"),)), near) == []


def test_a_threshold_needs_pairs_of_both_labels(tmp_path):
    items = Items(["a", "b"], ["p", "p"], vectors(2))
    path = tmp_path / "pairs.jsonl"
    for text, reason in (
        ('{"a": "a", "b": "b", "label": 1}\n' * 4, "too few pairs"),
        ('\n{"a": "a"}', "line 1 is no labelled pair"),
        ("[]", "line 1 is no labelled pair"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=reason):
            choose_threshold(items, path)
    with pytest.raises(UserError, match="there is no file"):
        choose_threshold(items, tmp_path / "none")


def test_mistakes_are_one_line(tmp_path, capsys):
    for flags, reason in (
        ([f"--vectors={tmp_path}"], "holds no part-"),
        ([f"--vectors={tmp_path}", "--input=somewhere"], "--format and --input"),
    ):
        assert run_command("launch.neighbours", [*flags, "--output=near"]) == EXIT_USER_ERROR
        assert reason in capsys.readouterr().err
