"""The same data set by Apache Beam, in several processes, as by this machine alone."""

import json
import sys

import pytest
from conftest import ROOT

from k3m_jax.data.build.local import build
from k3m_jax.settings import UserError
from tests.troubled import arguments, everything, write_catalog, write_regions

ONE_PROCESS = "--runner=DirectRunner"
PROCESSES = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"


def test_without_beam_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "k3m_jax.data.build.beam", raising=False)
    with pytest.raises(UserError, match=r"pip install -r requirements-beam\.txt"):
        build(arguments(tmp_path, tmp_path / "data", beam_options=PROCESSES))


@pytest.fixture
def beam_module(monkeypatch):
    pytest.importorskip("apache_beam", reason="needs pip install -r requirements-beam.txt")
    from k3m_jax.data.build import beam

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of Beam's own processes
    monkeypatch.setattr(beam, "BLOCK_LINES", 4)  # many blocks
    return beam


def same(local, beam, rejects):
    assert beam.info == local.info
    assert beam.info.rejects == rejects
    for split in local.info.products:
        ids = [[item.id for item in s.source(split)] for s in (local, beam)]
        assert ids[0] == ids[1]  # the order that a run shuffles is the same, too
    for name in ("rejects.jsonl", "values.json", "tokenizer/tokenizer.json"):
        assert (local.folder / name).read_text() == (beam.folder / name).read_text()
    mine, theirs = everything(local), everything(beam)
    assert mine.keys() == theirs.keys()
    assert all(mine[key][1].picture == theirs[key][1].picture for key in mine)
    assert [p.name for p in beam.folder.parent.parent.parent.iterdir()] == ["k3m_products"]


@pytest.mark.long  # Beam starts its processes
def test_processes_of_beam_make_the_same_data_set(beam_module, tmp_path):
    rejects = write_catalog(tmp_path / "in")
    lines = (tmp_path / "in/products.jsonl").read_text().splitlines()
    lines += ["", *(json.dumps({"id": "item-9", "title": str(i)}) for i in range(3))]
    (tmp_path / "in/products.jsonl").write_text("\ufeff" + "\n".join(lines))
    kept = {"shards": 3, "vocabulary_size": 120, "valid_fraction": 0.5}
    local = build(arguments(tmp_path / "in", tmp_path / "local", **kept))
    beam = build(arguments(tmp_path / "in", tmp_path / "beam", **kept, beam_options=PROCESSES))
    same(local, beam, rejects | {"repeated_id": 4})
    assert (local.codebook.centres == beam.codebook.centres).all()
    assert 1 < len(list(beam.folder.glob("*-train.array_record*"))) <= 3


@pytest.mark.long
def test_regions_and_several_files(beam_module, tmp_path):
    (tmp_path / "in").mkdir()
    for split, count in (("train", 9), ("valid", 5)):
        rows = [
            f"{split}{i % 7}\ttitle {i}\turl\tcolor#:#c{i % 2}#;#for#:#tea\tcups"
            for i in range(count)
        ]
        (tmp_path / "in" / f"{split}.tsv").write_text("\n".join(["x", *rows]) + "\n")
    path = tmp_path / "regions.tsv"
    write_regions(path, [f"train{i}" for i in range(6)] + ["item-12", "valid0"])
    given = {"format": "release", "front_end": "regions", "region_features": str(path)}
    given |= {"top_classes": 3, "vocabulary_size": 60}
    local = build(arguments(tmp_path / "in", tmp_path / "local", **given))
    beam = build(arguments(tmp_path / "in", tmp_path / "beam", **given, beam_options=ONE_PROCESS))
    same(local, beam, {"wrong_columns": 2, "repeated_id": 2})
    mine, theirs = everything(local), everything(beam)
    features = [found["train3"][1].contents["image"].features for found in (mine, theirs)]
    assert (features[0] == features[1]).all()


def test_mistakes_are_named(beam_module, tmp_path):
    write_catalog(tmp_path / "in")
    with pytest.raises(UserError, match=r"--beam_options: .*NoRunner"):
        build(arguments(tmp_path / "in", tmp_path / "data", beam_options="--runner=NoRunner"))


@pytest.mark.long
def test_a_split_of_rejects_says_why(beam_module, tmp_path):
    """As on this machine: `test_a_catalog_of_rejects_says_why`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cut.jpg").write_bytes(b"no picture")
    records = [
        {"id": "a", "split": "train", "images": ["cut.jpg"]},
        {"id": "b", "split": "valid", "title": "usable"},
    ]
    (tmp_path / "in/products.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(UserError, match="no record of split 'train' is usable: 1 bad_picture"):
        build(arguments(tmp_path / "in", tmp_path / "data", beam_options=ONE_PROCESS))
