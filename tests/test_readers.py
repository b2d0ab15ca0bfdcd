"""Catalogs: lines to products, and pictures that must stay in the folder."""

import json
import os
import pickle

import pytest

from k3m_jax.data.catalog.readers import RawLine, open_catalog
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.modalities import REGISTRY, Title
from k3m_jax.settings import UserError


def jsonl(folder, *records):
    """A catalog of records; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    (folder / "products.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return open_catalog("jsonl", folder)


def release(folder, *lines, file="train.tsv"):
    (folder / file).write_bytes("\n".join(lines).encode() + b"\n")
    return open_catalog("release", folder)


def first(catalog):
    return catalog.read(next(catalog.lines()))


def refusal(catalog, path):
    with pytest.raises(InvalidRecordError) as caught:
        catalog.read_picture(path)
    return caught.value.reason


def test_jsonl_record(tmp_path):
    said = {"id": "a", "product": "g", "category": "Tops", "split": "valid", "source": "shop"}
    said |= {"images": ["i/front.jpg", "i/back.jpg"], "triples": [["size", "S:M;L#"]]}
    catalog = jsonl(tmp_path, said | {"title": "Shirt 🎽: red; #1", "price": {"eur": 3}})
    (raw,) = catalog.lines()
    assert (raw.file, raw.line) == ("products.jsonl", 1)
    product = catalog.read(raw)
    assert product.sources == {
        "title": "Shirt 🎽: red; #1",
        "image": ("i/front.jpg", "i/back.jpg"),
        "knowledge": (("size", "S:M;L#"),),
    }
    assert (product.product, product.split, product.source) == ("g", "valid", "shop")
    # A line alone is enough.
    assert catalog.read(RawLine("elsewhere", 9, b'{"id": "z"}')).id == "z"


@pytest.mark.parametrize("record", [{"id": "a"}, {"id": "a", "images": [], "triples": None}])
def test_jsonl_missing_parts(tmp_path, record):
    catalog = jsonl(tmp_path, record)
    assert first(catalog).sources == {"title": "", "image": (), "knowledge": ()}
    assert catalog.read_picture("") == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not_json"),
        (b"nothing", "not_json"),
        (b'{"id": "a", "n": ' + b"1" * 10_000 + b"}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'["a"]', "wrong_type"),
        (b'{"id": "\xff"}', "not_utf8"),
        (b'{"title": "x"}', "missing_id"),
    ],
)
def test_jsonl_refused(tmp_path, line, expected):
    assert first(jsonl(tmp_path, line)).reason == expected


def test_a_key_said_twice_is_noted_and_strict_refuses_it(tmp_path):
    line = b'{"id": "a", "title": "x", "title": "y"}'
    product = first(jsonl(tmp_path, line))
    assert product.sources["title"] == "y"
    assert [repair.split(":")[0] for repair in product.repairs] == ["repeated_key"]
    strict = open_catalog("jsonl", tmp_path, strict=True)
    assert first(strict).reason == "repeated_key"


def test_lines_keep_their_numbers(tmp_path):
    separator = json.dumps({"id": "b", "title": "a\u2028b\x0bc"}, ensure_ascii=False).encode()
    catalog = jsonl(tmp_path, b'\xef\xbb\xbf{"id": "a"}\r', b"  ", separator)
    assert [(raw.line, catalog.read(raw).id) for raw in catalog.lines()] == [(1, "a"), (3, "b")]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "i/../../secret.jpg",
        "i\\..\\..\\secret.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "a\0b.jpg",
        "i/link/secret.jpg",
        "linked.jpg",
        "i/linked.jpg",
    ],
)
def test_picture_paths_stay_in_the_folder(tmp_path, path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    folder = tmp_path / "catalog"
    (folder / "i").mkdir(parents=True)
    (folder / "i" / "link").symlink_to(tmp_path)
    for link in (folder / "linked.jpg", folder / "i" / "linked.jpg"):
        link.symlink_to(tmp_path / "secret.jpg")
    catalog = jsonl(folder, {"id": "a", "images": [path]})
    assert refusal(catalog, first(catalog).sources["image"][0]) == "outside_folder"


def test_pictures_of_another_disk_may_be_linked_right_into_the_folder(tmp_path):
    folder, disk = tmp_path / "catalog", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (disk / "a.jpg").write_bytes(b"pixels")
    (disk / "linked.jpg").symlink_to("/etc/hostname")
    (folder / "images").symlink_to(disk)
    catalog = jsonl(folder, {"id": "a"})
    assert catalog.read_picture("images/a.jpg") == b"pixels"
    assert refusal(catalog, "images/linked.jpg") == "outside_folder"


def test_pictures_are_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.jpg").write_bytes(b"pixels")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    catalog = jsonl(tmp_path, {"id": "a"})
    assert catalog.read_picture("images/a b.jpg") == b"pixels"
    for path in ("images/absent.jpg", "x" * 5000, "loop.jpg"):  # no file can have such a name
        assert catalog.read_picture(path) == b""
    for path in ("images", "pipe.jpg"):
        assert refusal(catalog, path) == "bad_picture"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "1\t标题 a:b\thttp://x/y.jpg\t材质#:#棉:80;#1#;#年龄#:#3#;#年龄#:#5\t玩具",
            ("标题 a:b", (("材质", "棉:80;#1"), ("年龄", "3"), ("年龄", "5")), "玩具"),
        ),
        ("1\t\turl\t\t", ("", (), "")),
    ],
)
def test_release_record(tmp_path, line, expected):
    product = first(release(tmp_path, line, file="test.tsv"))
    found = product.sources["title"], product.sources["knowledge"], product.category
    assert found == expected
    assert (product.split, product.sources["image"]) == ("test", ())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1\ttitle\turl\ta#:#b", "wrong_columns"),
        ("1\ttitle\turl\ta#:#b\tc\td", "wrong_columns"),
        ("\ttitle\turl\ta#:#b\tc", "missing_id"),
    ],
)
def test_release_refused(tmp_path, line, expected):
    assert first(release(tmp_path, line)).reason == expected


def test_a_release_triple_without_its_mark_is_left_out(tmp_path):
    product = first(release(tmp_path, "1\ttitle\turl\t#;#a#:#b#;#c\tx"))
    assert product.sources["knowledge"] == (("a", "b"),)
    assert [repair.split(":")[0] for repair in product.repairs] == ["empty_triple", "bad_triple"]


@pytest.mark.parametrize(
    ("format_name", "folder", "message"),
    [
        ("jsonl", "", r"no products\.jsonl"),
        ("release", "", r"no \.tsv"),
        ("jsonl", "absent", "does not exist"),
        ("csv", "", "jsonl, table, release"),
    ],
)
def test_mistakes_are_named(tmp_path, format_name, folder, message):
    with pytest.raises(UserError, match=message):
        open_catalog(format_name, tmp_path / folder)


def test_the_public_release_is_read_whole(shared):
    catalog = open_catalog("release", shared / "data" / "release_sample")
    products = list(map(catalog.read, catalog.lines()))
    assert len(products) == 500
    assert {p.split for p in products} == {"train", "valid"}
    triples = [p.sources["knowledge"] for p in products]
    assert max(map(len, triples)) == 158
    assert sum(map(len, triples)) == 3641  # as many as the files separate
    assert sum(len({a for a, _ in each}) < len(each) for each in triples) == 76
    assert all(all(p.sources[name] for name in ("title", "knowledge")) for p in products)


def test_a_reader_takes_registered_modalities_into_other_processes(tmp_path, monkeypatch):
    catalog = jsonl(tmp_path, {"id": "a"})
    monkeypatch.setitem(REGISTRY, "reviews", Title)
    data = pickle.dumps(catalog)
    del REGISTRY["reviews"]
    pickle.loads(data)
    assert REGISTRY["reviews"] is Title


def test_reading_begins_at_any_line(tmp_path):
    texts = ["\ufeff{}", "", '{"id": "a\u2028b"}', "x" * 40, "", "", "last"]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "empty.tsv").write_text("")
    catalog = open_catalog("release", tmp_path)
    lines = list(catalog.lines())
    assert [raw[:2] for raw in lines] == [
        (f"{name}.tsv", line) for name in ("train", "valid") for line in (1, 3, 4, 7)
    ]
    assert lines[0].data == b"{}\n"
    for i, raw in enumerate(lines[:4]):
        assert [*catalog.lines_from(tmp_path / raw.file, raw.line, raw.offset)] == lines[i:4]
