import json
import sys

import pytest

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.catalog.region_features import RegionReader
from k3m_jax.pretrained import vision
from k3m_jax.pretrained.vision import extraction
from k3m_jax.settings import Backbone, UserError
from launch.cli import run_command
from tests.eyes import Eyes, extract, write_dump


@pytest.fixture
def dump(tmp_path):
    return write_dump(tmp_path / "dump")


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_each_picture_becomes_a_file_and_what_is_broken_is_reported(dump, tmp_path):
    report = extract(Eyes(), dump, tmp_path / "out")
    assert "8 pictures of 12 lines" in report
    assert '{"bad_picture": 2, "no_picture": 2}' in report
    rejects = map(json.loads, (tmp_path / "out" / extraction.REJECTS).open())
    assert [(line["line"], line["reason"]) for line in rejects] == [
        (5, "bad_picture"),
        (10, "bad_picture"),
    ]
    ids = [f"shop/{n}" for n in range(12)]
    reader = RegionReader(tmp_path / "out", ids, 3)
    assert reader.sizes == (6, 5, 3)
    assert reader.backbone == Eyes().identity
    assert [len(reader.read(item, 36).boxes) for item in ids] == [4, 4, 4, 0, 0] * 2 + [4, 4]


class Killed(Exception):
    pass


@pytest.mark.parametrize("files", [0, 1, 3, 5, 7])
def test_an_interrupted_extraction_goes_on_and_leaves_the_same_bytes(
    dump, tmp_path, monkeypatch, files
):
    extract(Eyes(), dump, tmp_path / "whole")
    write, left = extraction._write_arrays, iter(range(files))

    def write_until(*arguments):
        if next(left, None) is None:
            raise Killed
        write(*arguments)

    monkeypatch.setattr(extraction, "_write_arrays", write_until)
    with pytest.raises(Killed):
        extract(Eyes(), dump, tmp_path / "out")
    monkeypatch.undo()
    eyes = Eyes()
    report = extract(eyes, dump, tmp_path / "out")
    assert "8 pictures of 12 lines" in report
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert eyes.seen == [3, 3, 2][files // 3 :]  # batches that were whole stay
    again = Eyes()
    extract(again, dump, tmp_path / "out")
    assert again.seen == []


def test_new_products_at_the_end_of_a_dump_are_added(dump, tmp_path):
    extract(Eyes(), dump, tmp_path / "out")
    write_dump(dump, lines=16)
    eyes = Eyes()
    assert "10 pictures of 16 lines" in extract(eyes, dump, tmp_path / "out")
    assert eyes.seen == [2]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow)])
def test_worker_processes_change_nothing(dump, tmp_path, workers):
    extract(Eyes(), dump, tmp_path / "here")
    extract(Eyes(), dump, tmp_path / "there", workers=workers)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_lines_that_are_no_products(dump, tmp_path):
    lines = (dump / "products.jsonl").read_text().splitlines()
    odd = [
        "{",
        '{"id": "../x", "images": ["0.jpg"]}',
        '{"id": "y", "images": ["lost.jpg"]}',
        '{"id": "z", "images": ["../0.jpg"]}',
        '{"id": "' + "z" * 300 + '", "images": ["0.jpg"]}',
    ]
    (dump / "products.jsonl").write_text("\n".join([lines[0], *odd, lines[0]]))
    report = extract(Eyes(), dump, tmp_path / "out")
    assert "1 pictures of 7 lines" in report
    counts = '"not_json": 1, "outside_folder": 3, "picture_not_found": 1, "repeated_id": 1'
    assert counts in report


def test_a_folder_of_something_else_is_left_alone(dump, tmp_path):
    extract(Eyes(), dump, tmp_path / "out")
    for other in ({"eyes": Eyes(weights="eight")}, {"batch": 5}):
        with pytest.raises(UserError, match=r"--output: .* holds features of"):
            extract(**{"eyes": Eyes(), "dump": dump, "output": tmp_path / "out"} | other)
    products = dump / "products.jsonl"
    products.write_text("\n".join(products.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match=r"--output: .* changed within its first 12 lines"):
        extract(Eyes(), dump, tmp_path / "out")
    with pytest.raises(UserError, match=r"--output: .* not empty"):
        extract(Eyes(), dump, dump)


def test_the_data_set_knows_what_made_its_regions(dump, tmp_path):
    extract(Eyes(), dump, tmp_path / "out")
    regions = {"front_end": "regions", "region_features": str(tmp_path / "out")}
    arguments = BuildArguments("jsonl", str(dump), str(tmp_path / "data"), **regions)
    built = build(arguments)
    assert built.info.backbone == Backbone("eyes", "seven", 8, 2)
    assert (built.info.regions, built.info.classes, built.info.top_classes) == (4, 5, 5)
    assert built.info.rejects == {}
    assert built.info.repaired == {"bad_picture": 2}


def test_without_torch_the_command_says_what_to_install(dump, tmp_path, monkeypatch, capsys):
    for name in ("efficientnet", "huggingface", "detector", "grid"):
        monkeypatch.delitem(sys.modules, f"{vision.__name__}.{name}", raising=False)
        monkeypatch.delattr(vision, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    flags = [f"--input={dump}", f"--output={tmp_path / 'out'}", "--model=efficientnet_lite0"]
    assert run_command("launch.extract_regions", flags) == 2
    assert "requirements-torch.txt" in capsys.readouterr().err


def test_a_model_that_is_not_there(dump, tmp_path, capsys):
    pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    flags = [f"--input={dump}", f"--output={tmp_path / 'out'}", f"--model={tmp_path / 'none'}"]
    assert run_command("launch.extract_regions", flags) == 2
    assert "--model" in capsys.readouterr().err
