"""Catalogues: lines to products, and pictures that must stay in the folder."""

import json
import os

import pytest

from k3m_jax.data.catalog.readers import RawLine, open_catalog
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.settings import UserError


def jsonl(folder, *records):
    """A catalogue of records; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    (folder / "products.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return open_catalog("jsonl", folder)


def release(folder, *lines, file="train.tsv"):
    (folder / file).write_bytes("\n".join(lines).encode() + b"\n")
    return open_catalog("release", folder)


def reason(function, *arguments):
    with pytest.raises(InvalidRecordError) as caught:
        function(*arguments)
    return caught.value.reason


def test_jsonl_record(tmp_path):
    catalogue = jsonl(
        tmp_path,
        {
            "id": "a",
            "product": "g",
            "title": "Shirt 🎽: red; #1",
            "triples": [["size", "S:M;L#"]],
            "images": ["i/front.jpg", "i/back.jpg"],
            "category": "Tops",
            "split": "valid",
            "source": "shop",
            "price": {"eur": 3},
        },
    )
    (raw,) = catalogue.lines()
    product = catalogue.parse(raw)
    assert (raw.file, raw.line) == ("products.jsonl", 1)
    assert product.picture == "i/front.jpg"  # the first of several views
    assert product.title == "Shirt 🎽: red; #1"
    assert product.triples == (("size", "S:M;L#"),)
    assert (product.product, product.split, product.source) == ("g", "valid", "shop")


@pytest.mark.parametrize("record", [{"id": "a"}, {"id": "a", "images": [], "triples": None}])
def test_jsonl_missing_parts(tmp_path, record):
    catalogue = jsonl(tmp_path, record)
    product = catalogue.parse(next(catalogue.lines()))
    assert (product.picture, product.triples, product.title) == ("", (), "")
    assert catalogue.read_picture(product.picture) == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not_json"),
        (b"nothing", "not_json"),
        (b'{"id": "a", "n": ' + b"1" * 10_000 + b"}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'["a"]', "wrong_type"),
        (b'{"id": "a", "images": "x.jpg"}', "wrong_type"),
        (b'{"id": "a", "images": [3]}', "wrong_type"),
        (b'{"id": "a", "title": "\\ud83d"}', "not_unicode"),
        (b'{"id": "\xff"}', "not_utf8"),
        (b'{"title": "x"}', "missing_id"),
    ],
)
def test_jsonl_refused(tmp_path, line, expected):
    catalogue = jsonl(tmp_path, line)
    assert reason(catalogue.parse, next(catalogue.lines())) == expected


def test_lines_keep_their_numbers(tmp_path):
    separator = {"id": "b", "title": "a\u2028b\x0bc"}
    catalogue = jsonl(
        tmp_path,
        b'\xef\xbb\xbf{"id": "a"}\r',
        b"  ",
        json.dumps(separator, ensure_ascii=False).encode(),
    )
    raws = list(catalogue.lines())
    assert [raw.line for raw in raws] == [1, 3]
    assert [catalogue.parse(raw).id for raw in raws] == ["a", "b"]


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
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "i").mkdir()
    (folder / "i" / "link").symlink_to(tmp_path)
    for link in (folder / "linked.jpg", folder / "i" / "linked.jpg"):
        link.symlink_to(tmp_path / "secret.jpg")
    catalogue = jsonl(folder, {"id": "a", "images": [path]})
    product = catalogue.parse(next(catalogue.lines()))
    assert reason(catalogue.read_picture, product.picture) == "outside_folder"


def test_pictures_of_another_disk_may_be_linked_right_into_the_folder(tmp_path):
    folder, disk = tmp_path / "catalogue", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (disk / "a.jpg").write_bytes(b"pixels")
    (disk / "linked.jpg").symlink_to("/etc/hostname")
    (folder / "images").symlink_to(disk)
    catalogue = jsonl(folder, {"id": "a", "images": ["images/a.jpg", "images/linked.jpg"]})
    assert catalogue.read_picture("images/a.jpg") == b"pixels"
    assert reason(catalogue.read_picture, "images/linked.jpg") == "outside_folder"


def test_pictures_are_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.jpg").write_bytes(b"pixels")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    paths = ["images/a b.jpg", "images/absent.jpg", "images", "pipe.jpg", "x" * 5000, "loop.jpg"]
    catalogue = jsonl(tmp_path, *[{"id": p, "images": [p]} for p in paths])
    products = [catalogue.parse(raw) for raw in catalogue.lines()]
    assert catalogue.read_picture(products[0].picture) == b"pixels"
    assert catalogue.read_picture(products[1].picture) == b""
    assert reason(catalogue.read_picture, products[2].picture) == "bad_picture"
    assert reason(catalogue.read_picture, products[3].picture) == "bad_picture"
    assert catalogue.read_picture(products[4].picture) == b""  # no file can have that name
    assert catalogue.read_picture(products[5].picture) == b""


def test_release_record(tmp_path):
    catalogue = release(
        tmp_path, "1\t标题 a:b\thttp://x/y.jpg\t材质#:#棉:80;#1#;#年龄#:#3#;#年龄#:#5\t玩具"
    )
    product = catalogue.parse(next(catalogue.lines()))
    assert product.triples == (("材质", "棉:80;#1"), ("年龄", "3"), ("年龄", "5"))
    assert (product.title, product.category, product.split) == ("标题 a:b", "玩具", "train")
    assert product.picture == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1\ttitle\turl\ta#:#b", "wrong_columns"),
        ("1\ttitle\turl\ta#:#b\tc\td", "wrong_columns"),
        ("\ttitle\turl\ta#:#b\tc", "missing_id"),
        ("1\ttitle\turl\ta#:#b#;#c\tx", "bad_triple"),
    ],
)
def test_release_refused(tmp_path, line, expected):
    catalogue = release(tmp_path, line)
    assert reason(catalogue.parse, next(catalogue.lines())) == expected


def test_release_without_triples(tmp_path):
    catalogue = release(tmp_path, "1\t\turl\t\t", file="test.tsv")
    product = catalogue.parse(next(catalogue.lines()))
    assert (product.title, product.triples, product.split) == ("", (), "test")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no products\.jsonl"):
        open_catalog("jsonl", tmp_path)
    with pytest.raises(UserError, match=r"no \.tsv"):
        open_catalog("release", tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        open_catalog("jsonl", tmp_path / "absent")
    with pytest.raises(UserError, match="jsonl, release"):
        open_catalog("csv", tmp_path)


def test_the_public_release_is_read_whole(shared):
    catalogue = open_catalog("release", shared / "data" / "release_sample")
    products = [catalogue.parse(raw) for raw in catalogue.lines()]
    assert len(products) == 500
    assert {p.split for p in products} == {"train", "valid"}
    assert max(len(p.triples) for p in products) == 158
    assert sum(len(p.triples) for p in products) == 3641  # as many as the files separate
    assert sum(len({a for a, _ in p.triples}) < len(p.triples) for p in products) == 76
    assert all(p.title and p.triples for p in products)


def test_a_line_alone_is_enough(tmp_path):
    catalogue = jsonl(tmp_path, {"id": "a"})
    assert catalogue.parse(RawLine("elsewhere", 9, b'{"id": "z"}')).id == "z"


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_blocks_hold_each_line_once_under_its_number(tmp_path, size):
    texts = ["\ufeff{}", "", '{"id": "a\u2028b"}', "x" * 40, "", "", "last"]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "empty.tsv").write_text("")
    catalogue = open_catalog("release", tmp_path)
    found, line, file = [], 1, None
    for block in catalogue.blocks(size):
        line, file = (1 if block.file != file else line), block.file
        found += catalogue.lines_of(block, line)
        line += sum(1 for _ in block.lines())
    assert found == list(catalogue.lines())
    assert [raw.line for raw in found] == [1, 3, 4, 7] * 2
    assert found[0].data == b"{}\n"
