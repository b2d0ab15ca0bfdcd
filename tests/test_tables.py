"""Tables as catalogs: ten rows of every preset, one catalogue in six forms, and broken files."""

import csv
import gzip
import io
import json
import pathlib
import pickle
import shutil
import tarfile

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from k3m_jax.data.build.local import build
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.catalog.tables import rows
from k3m_jax.data.catalog.tables.mapping import PRESETS
from k3m_jax.data.catalog.tables.text import plain
from k3m_jax.data.records import RejectedLine
from k3m_jax.settings import UserError
from launch.cli import EXIT_USER_ERROR, run_command
from tests.products import jpeg
from tests.troubled import arguments, everything

DUMPS = pathlib.Path(__file__).parent / "dumps"
SAMPLES = {  # the preset and the file of each sample
    "shopify_old": ("shopify", "shopify_old.csv"),
    "shopify_new": ("shopify", "shopify_new.csv"),
    "woocommerce": ("woocommerce", "woocommerce.csv"),
    "magento2": ("magento2", "magento2.csv"),
    "google": ("google", "google.tsv"),
    "google, XML": ("google", "google.xml"),
    "amazon2023": ("amazon2023", "amazon2023.jsonl"),
    "openfoodfacts": ("openfoodfacts", "openfoodfacts.csv"),
    "abo": ("abo", "abo.jsonl"),
    "fashion": ("fashion", "fashion.csv"),
}


def table(path, mapping, **options):
    return open_catalog("table", path, mapping=str(mapping), **options)


def products(catalog):
    return [catalog.read(raw) for raw in catalog.lines()]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_preset(name, tmp_path):
    preset, file = SAMPLES[name]
    path = tmp_path / file
    shutil.copy(DUMPS / file, path)
    if name == "fashion":
        path = path.rename(tmp_path / "styles.csv").parent
    if name == "abo":
        path = tmp_path
        for part, there in {
            "abo.jsonl": "listings/metadata/listings_0.json.gz",
            "abo_images.csv": "images/metadata/images.csv.gz",
        }.items():
            (path / there).parent.mkdir(parents=True)
            (path / there).write_bytes(gzip.compress((DUMPS / part).read_bytes()))
    catalog = pickle.loads(pickle.dumps(table(path, preset)))
    expected = [json.loads(x) for x in (DUMPS / f"{name.split(',')[0]}.expected.jsonl").open()]
    found = products(catalog)
    assert [repair for p in found for repair in p.repairs if "extra_columns" not in repair] == []
    as_json = json.dumps(
        [{"id": p.id, "product": p.product, "category": p.category, **p.sources} for p in found]
    )
    assert json.loads(as_json) == expected
    assert {p.source for p in found} == {preset}


def test_a_preset_may_be_changed(tmp_path):
    (tmp_path / "own.toml").write_text(
        'base = "shopify"\nappend = ["Body (HTML)"]\ncategory = "Type"'
    )
    first, *_ = products(table(DUMPS / "shopify_old.csv", tmp_path / "own.toml"))
    assert first.sources["title"] == "Linen Shirt Airy & soft."
    assert (first.category, first.product, first.source) == ("Shirt", "linen-shirt", "shopify")


def test_every_preset_has_a_sample():
    assert PRESETS.keys() == {preset for preset, _ in SAMPLES.values()} | {"plain", "webdataset"}


MAPPING = """
id = "sku"
title = "{brand} {name}"
append = ["text"]
images = "picture"
category = "class"
product = "style"
[attributes]
brand = "brand"
year = "year"
new = "new"
"""


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "shop.toml"
    path.write_text(MAPPING)
    return path


def catalogue(count=12):
    for i in range(count):
        yield {
            "sku": f"s{i}",
            "brand": "Norda",
            "name": f"Größe {i} & more",
            "text": "<p>Soft,<br>warm</p>",
            "picture": f"images/{i}.jpg",
            "class": "Tops",
            "style": i // 2,
            "year": 2011 if i % 3 else None,
            "new": i % 2 == 0,
        }


def write_csv(path, lines, encoding="utf-8", **how):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), **how)
    writer.writeheader()
    writer.writerows(lines)
    path.write_bytes(out.getvalue().encode(encoding))


def test_one_catalogue_has_one_fingerprint_in_every_format(tmp_path, mapping):
    lines, prints = list(catalogue()), set()
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    for i in range(len(lines)):
        (folder / f"images/{i}.jpg").write_bytes(jpeg(i, 20))
    write_csv(folder / "a.csv", lines)
    write_csv(folder / "excel.tsv", lines, "utf-16", delimiter="\t")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    parquet.write_table(pyarrow.Table.from_pylist(lines), folder / "a.parquet", row_group_size=5)
    pictures = [line | {"picture": {"bytes": jpeg(i, 20)}} for i, line in enumerate(lines)]
    parquet.write_table(pyarrow.Table.from_pylist(pictures), folder / "embedded.parquet")
    (folder / "parts").mkdir()
    write_csv(folder / "parts/1.csv", lines[:5])
    parquet.write_table(pyarrow.Table.from_pylist(lines[5:]), folder / "parts/2.parquet")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, line in enumerate(lines):
            described = {k: v for k, v in line.items() if k != "picture"}
            add(tar, f"{i}.jpg", jpeg(i, 20))
            add(tar, f"{i}.json", json.dumps(described | {"title": "no column"}).encode())
    for name in sorted(path.name for path in folder.iterdir() if path.name != "images"):
        column = "images" if name == "a.tar" else "picture"
        mapping.write_text(MAPPING.replace('"picture"', f'"{column}"'))
        shards = build(
            arguments(
                folder / name,
                tmp_path / f"of-{name}",
                format="table",
                mapping=str(mapping),
                pictures=str(folder),
                valid_fraction=0.5,
            )
        )
        assert shards.info.repaired == shards.info.rejects == {}
        prints.add(shards.info.fingerprint)
    assert len(prints) == 1
    record = everything(shards)["s1"][1]
    assert record.title == "Norda Größe 1 & more Soft, warm"
    assert record.triples == (("brand", "Norda"), ("year", "2011"), ("new", "false"))
    assert (record.product, record.category, bool(record.picture)) == ("0", "Tops", True)


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_blocks_of_beam_are_the_lines(tmp_path):
    lines = [{"id": i, "title": f"t {i}"} for i in range(23)]
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "1.parquet", row_group_size=9)
    write_csv(tmp_path / "2.csv", lines)
    catalog = table(tmp_path, "plain")
    found = [raw for *at, _ in catalog.blocks(4) for raw in catalog.lines_from(*at)]
    places = [(raw.file, raw.line) for raw in catalog.lines()]
    assert [(raw.file, raw.line) for raw in found] == places
    assert len(places) == len(set(places)) == 46


def test_cells_of_other_encodings_and_of_many_lines(tmp_path):
    text = 'id;title\n1;"a\n;b"\n2;Größe\n'.encode()
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text + "3;Größe;x\n\n4\n".encode("cp1252"))
    catalog = table(tmp_path / "a.csv", "plain")
    found = products(catalog)
    assert [p.sources["title"] for p in found] == ["a ;b", "Größe", "Größe;x", ""]
    assert [raw.line for raw in catalog.lines()] == [2, 4, 5, 7]
    assert [r.split(":")[0] for r in found[2].repairs] == ["not_utf8", "extra_columns"]


def test_a_webdataset(tmp_path):
    with tarfile.open(tmp_path / "00.tar.gz", "w:gz") as tar:
        add(tar, "a/1.jpg", b"pixels")
        add(tar, "a/1.json", b'{"caption": "shirt", "colour": "red", "size": [1, 2]}')
        add(tar, "a/2.txt", b"mug")
        add(tar, "../3.txt", b"out")
        add(tar, "4.json", b"{")
    found = products(table(tmp_path / "00.tar.gz", "webdataset"))
    assert [getattr(p, "id", None) for p in found] == ["a/1", "a/2", None, None]
    assert found[0].sources == {
        "title": "shirt",
        "image": (b"pixels",),
        "knowledge": (("colour", "red"), ("size", "1"), ("size", "2")),
    }
    assert found[1].sources["title"] == "mug"
    assert [p.reason for p in found if isinstance(p, RejectedLine)] == [
        "outside_folder",
        "not_json",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b & c > d", "a < b & c > d"),
        ("<p>One.</p><p>Two &amp; &#8364;</p>", "One. Two & €"),
        ("x<style>p {color: red}</style>y<!-- <b>no</b> -->z", "x y z"),
        ("<script>if (a < b) {}</script>", ""),
        ("open <b", "open <b"),
        ("I ♥ C++ <3", "I ♥ C++ <3"),
    ],
)
def test_html_is_made_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("", r"--mapping is required .*shopify"),
        ("shopfy", r"'shopfy' .*shopify"),
        ('id = "sku"\ntitel = "x"', r"unknown key 'titel'.*title"),
        ('title = "x"', "id is missing"),
        ('id = "sku"\ntitle = 3', "title is 3"),
        ('id = "sku"\n[rows]\nbye = "x"', "rows: unknown key 'bye'"),
        ('id = "sku\n', "line 1"),
        ('id = "sku"\ntitle = "{brand} {nam}"', r"no '\{brand\} \{nam\}'.* for title.*brand"),
        ('id = "sku"\n[attributes]\ncolour = "c"', r"no 'c', .*attributes\.colour"),
        ('id = "s"\noptional = true', "no 's'"),
    ],
)
def test_mistakes_of_a_mapping_are_one_line(tmp_path, mapping, message):
    write_csv(tmp_path / "a.csv", list(catalogue(2)))
    if "=" in mapping:
        (tmp_path / "own.toml").write_text(mapping)
        mapping = tmp_path / "own.toml"
    with pytest.raises(UserError, match=message) as caught:
        table(tmp_path / "a.csv", mapping)
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_line(tmp_path, monkeypatch, capsys):
    lines = [{"id": str(i), "title": "x" * 40} for i in range(2000)]
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "cut.parquet")
    write_csv(tmp_path / "cut.csv", lines)
    cut = gzip.compress((tmp_path / "cut.csv").read_bytes())
    (tmp_path / "cut.csv.gz").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "cut.csv").unlink()
    data = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "no.csv.gz").write_bytes(b"id,title\n")
    (tmp_path / "array.json").write_text('[\n{"id": 1}\n]')
    (tmp_path / "cut.xml").write_text("<rss><item><id>1</id></item>")
    (tmp_path / "open.csv").write_text('id,title\n1,"' + "x" * 3000 + "\n2,y\n")
    (tmp_path / "cell.csv").write_text("id,title\n1," + "x" * 3000 + "\n2,y\n")
    monkeypatch.setattr(rows, "LONGEST_LINE", 5000)
    before = csv.field_size_limit(2000)
    try:
        for file in sorted(tmp_path.iterdir()):
            flags = [f"--input={file}", f"--output={tmp_path / 'out'}", "--workers=0"]
            flags += ["--format=table", "--mapping=plain"]
            assert run_command("launch.build_shards", flags) == EXIT_USER_ERROR, file
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith(f"error: --input: {file} can't be read after line"), said
    finally:
        csv.field_size_limit(before)
    (tmp_path / "cell.csv").write_text("id,title\n1," + "x" * 6000 + "\n2,y\n")
    with pytest.raises(UserError, match="after line 0: a line of more"):
        table(tmp_path / "cell.csv", "plain")


def test_preview_shows_and_builds_nothing(tmp_path, mapping, capsys):
    lines = list(catalogue(3))
    lines[1]["sku"] = ""
    write_csv(tmp_path / "a.csv", lines)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.jpg").write_bytes(jpeg(0, 20))
    flags = ["--format=table", f"--mapping={mapping}", f"--input={tmp_path / 'a.csv'}"]
    flags += [f"--output={tmp_path / 'out'}", "--preview=5"]
    assert run_command("launch.build_shards", flags) == 0
    shown = capsys.readouterr().out
    for part in ("images/0.jpg", "year: 2011", "missing_id", "picture_not_found", "Größe 2 & more"):
        assert part in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["preview.png"]


def test_embedded_pictures_are_not_shared_between_rows(tmp_path):
    lines = [{"id": str(i), "images": [{"bytes": jpeg(i, 20), "path": "x"}]} for i in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "a.parquet")
    found = [p.sources["image"] for p in products(table(tmp_path / "a.parquet", "plain"))]
    assert found == [(jpeg(i, 20),) for i in range(3)]
    assert len(np.unique([hash(x) for x in found])) == 3
