"""Building a data set from a small catalogue full of trouble, and reading it back."""

import base64
import dataclasses
import io
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from k3m_jax.data.build import local
from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build
from k3m_jax.data.build.record_builder import BuiltRecord, RecordBuilder
from k3m_jax.data.records import RejectedLine
from k3m_jax.data.store.shards import open_shards
from k3m_jax.modalities import pixels
from k3m_jax.settings import UserError

F, C = 8, 5
GOOD = 24


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((90, 60)).save(out, "JPEG")
    return out.getvalue()


def write_catalogue(folder):
    """24 usable records, 3 of them without one part each, among 7 that are not."""
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(GOOD):
        (folder / "images" / f"{i}.jpg").write_bytes(jpeg(i))
        records.append(
            {
                "id": f"item-{i}",
                "product": f"p{i // 2}",
                "title": f"shirt #{i}: größe 😀; L",
                "triples": [["color", f"c{i % 3}"], ["color", "all:of;them#"], ["only", f"v{i}"]],
                "category": "Tops",
                "images": [f"images/{i}.jpg"],
                "split": ("train", "train", "train", "valid")[i // 2 % 4],
            }
        )
    records[0]["title"] = ""
    records[7]["title"] = "valid: Ω"
    records[1]["triples"] = []
    records[2]["images"] = []
    records[3]["images"] = ["images/lost.jpg"]
    records[4]["triples"] += [["", "x"], ["color", "all:of;them#"]]
    (folder / "images" / "cut.jpg").write_bytes(jpeg(0)[:700])
    bad = [
        '{"id": "unfinished',
        json.dumps({"title": "no id"}),
        json.dumps({"id": "item-0", "title": "again"}),
        json.dumps({"id": "types", "triples": "color: red"}),
        json.dumps(
            {"id": "escape", "title": "Ж", "images": ["../../secret.jpg"], "split": "train"}
        ),
        json.dumps({"id": "cut", "images": ["images/cut.jpg"], "split": "valid"}),
        json.dumps({"id": "half", "title": "\ud83d"}),
    ]
    lines = [json.dumps(r) for r in records]
    lines[7:7] = bad
    (folder / "products.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "not_json": 1,
        "missing_id": 1,
        "repeated_id": 1,
        "wrong_type": 1,
        "outside_folder": 1,
        "bad_picture": 1,
        "not_unicode": 1,
    }


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder)
    return folder


def arguments(catalogue, output, **changes):
    defaults = BuildArguments(
        "jsonl",
        str(catalogue),
        str(output),
        image_size=32,
        patch_size=8,
        codebook_size=12,
        vocabulary_size=0,
    )
    return dataclasses.replace(defaults, **changes)


@pytest.fixture(scope="module")
def built(catalogue, tmp_path_factory):
    return build(
        arguments(catalogue, tmp_path_factory.mktemp("data"), shards=3, vocabulary_size=120)
    )


def everything(shards):
    return {r["id"]: (s, r) for s in shards.info.products for r in shards.source(s)}


def test_every_usable_record_is_there_and_every_other_is_told(built, tmp_path):
    items = everything(built)
    assert set(items) == {f"item-{i}" for i in range(GOOD)}
    assert built.info.products == {"train": 18, "valid": 6}
    rejects = [json.loads(line) for line in (built.folder / "rejects.jsonl").open()]
    assert [r["line"] for r in rejects] == list(range(8, 15))
    assert all(r["file"] == "products.jsonl" and r["detail"] for r in rejects)
    assert built.info.rejects == write_catalogue(tmp_path / "again")


def test_a_record_says_what_the_catalogue_said(built):
    split, item = everything(built)["item-9"]
    assert split == "train"
    assert item["title"] == "shirt #9: größe 😀; L"
    assert item["properties"] == ["color", "color", "only"]
    assert item["values"] == ["c0", "all:of;them#", "v9"]
    assert (item["product"], item["category"], item["source"]) == ("p4", "Tops", "")
    picture = pixels.decode(item["picture"])
    assert picture.shape == (32, 32, 3)
    patches = pixels.patchify(picture, 8)
    np.testing.assert_array_equal(item["class_ids"], built.codebook.assign(patches))
    assert item["class_ids"].dtype == np.int32


def test_what_is_missing_is_empty_and_counted(built):
    items = {key: item for key, (_, item) in everything(built).items()}
    assert items["item-0"]["title"] == ""
    assert items["item-1"]["properties"] == items["item-1"]["values"] == []
    for key in ("item-2", "item-3"):
        assert items[key]["picture"] == b""
        assert items[key]["class_ids"].shape == (0,)
    assert items["item-4"]["values"] == ["c1", "all:of;them#", "v4"]
    assert built.info.missing == {"picture": 2, "title": 1, "triples": 1}
    assert built.info.repaired == {"picture_not_found": 1, "empty_triple": 1, "repeated_triple": 1}


def test_products_do_not_straddle_splits(built):
    products = [
        {item["product"] for split, item in everything(built).values() if split == name}
        for name in ("train", "valid")
    ]
    assert not products[0] & products[1]


def test_value_table_counts_train_and_lists_all(built):
    train = [item for split, item in everything(built).values() if split == "train"]
    for value, count in built.values["color"].items():
        assert count == sum(value in item["values"] for item in train)
    assert len(built.values["only"]) == GOOD - 1
    assert built.values["only"]["v6"] == 0  # of a valid item alone
    for table in (built.values, *built.values.values()):
        assert list(table) == sorted(table)


def test_sizes_are_told(built):
    info = built.info
    assert (info.front_end, info.image_size, info.patch_size) == ("patches", 32, 8)
    assert (info.regions, info.feature_dim, info.classes, info.top_classes) == (16, 192, 12, 1)
    assert len(built.codebook.centres) == 12


def test_shards_are_as_many_as_asked(built):
    names = [p.name for p in built.folder.glob("*.array_record*")]
    assert len([n for n in names if "-train." in n]) == 3
    assert len([n for n in names if "-valid." in n]) == 3


def test_tokenizer_is_trained_on_usable_train_records_alone(built):
    tokenizer = json.loads((built.tokenizer_folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    assert "color" in vocabulary
    assert "ß" in vocabulary
    assert not {"Ω", "ω", "Ж", "ж"} & set(vocabulary)


def test_tfds_reads_it_by_name_and_by_folder(built):
    root = built.folder.parent.parent.parent
    for builder in (
        tfds.builder("k3m_products/patches", data_dir=root),
        tfds.builder_from_directory(built.folder),
    ):
        assert str(builder.version) == "1.0.0"
        assert builder.info.splits["train"].num_examples == 18
        item = builder.as_data_source("valid")[0]
        assert item["id"].decode() == built.source("valid")[0]["id"]


def test_tensorflow_is_not_needed():
    code = "import sys, k3m_jax.data.build.local; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_source_pickles_and_names_its_content(built):
    source = built.source("train")
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source) == 18
    assert again[7]["id"] == source[7]["id"]
    assert built.info.fingerprint in repr(source)
    with pytest.raises(UserError, match="no split 'test', only train, valid"):
        built.source("test")


def test_workers_and_line_order_change_nothing(built, catalogue, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(catalogue, turned)
    lines = (catalogue / "products.jsonl").read_text().splitlines()
    good = [line for line in lines if '"product"' in line]
    (turned / "products.jsonl").write_text("\n".join(good[::-1]) + "\n")
    again = build(arguments(turned, tmp_path / "data", shards=3, workers=2))
    assert again.info.fingerprint == built.info.fingerprint
    for path in built.folder.glob("*.array_record*"):
        assert (again.folder / path.name).read_bytes() == path.read_bytes()
    order = [[item["id"] for item in s.source("train")] for s in (built, again)]
    assert order[0] == order[1] != sorted(order[0])  # shuffled, by a hash of the id


def test_fingerprint_tells_contents_apart(built, catalogue, tmp_path):
    again = build(arguments(catalogue, tmp_path, image_size=16))
    assert again.info.fingerprint != built.info.fingerprint


def test_records_without_a_split_are_dealt_out_by_product(tmp_path):
    lines = [json.dumps({"id": f"{g}-{i}", "product": f"g{g}"}) for g in range(20) for i in "ab"]
    (tmp_path / "products.jsonl").write_text("\n".join(lines))
    shards = build(arguments(tmp_path, tmp_path / "data", valid_fraction=0.4))
    assert sum(shards.info.products.values()) == 40
    groups = [{item["product"] for item in shards.source(s)} for s in ("train", "valid")]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]


def test_folds_hold_out_each_product_once_whatever_its_split(tmp_path):
    lines = [
        {"id": f"{g}-{i}", "product": f"g{g}", "split": "valid" if g % 2 else "train"}
        for g in range(30)
        for i in "ab"
    ]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pair = {"label": 1, "split": "train"}  # of what it was before
    pairs = [{"a": f"{g}-a", "b": f"{g}-b", **pair} for g in range(30)]
    pairs.append({"a": "0-a", "b": "1-b", **pair})
    (tmp_path / "align_pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    folds, apart = [], 0
    for fold in range(3):
        how = {"folds": 3, "fold": fold, "valid_fraction": 0.2, "front_end": "patches"}
        shards = build(arguments(tmp_path, tmp_path / f"fold{fold}", **how))
        split = {s: {x["product"] for x in shards.source(s)} for s in shards.info.products}
        assert set(split) == {"train", "valid", "test"}
        assert sum(map(len, split.values())) == 30  # no product in two of them
        assert sum(shards.info.pairs.values()) + sum(shards.info.rejects.values()) == 31
        apart += shards.info.rejects.get("pair_split_apart", 0)
        folds.append(split["test"])
    assert set.union(*folds) == {f"g{g}" for g in range(30)}
    assert sum(map(len, folds)) == 30
    assert apart <= 3  # nothing but the pair of two products


def test_further_splits_are_kept(tmp_path):
    lines = [json.dumps({"id": s, "split": s}) for s in ("test_unseen", "valid", "train", "test")]
    (tmp_path / "products.jsonl").write_text("\n".join(lines))
    shards = build(arguments(tmp_path, tmp_path / "data"))
    assert list(shards.info.products) == ["train", "valid", "test", "test_unseen"]


# Region features


def write_regions(path, ids):
    rng = np.random.default_rng(0)
    rows = []
    for i, item in enumerate(ids):
        n = 40 if i == 0 else 2 + i
        boxes = np.tile(np.array([10, 5, 60, 50], np.float32), (n, 1))
        arrays = boxes, rng.random((n, F), np.float32), rng.dirichlet(np.ones(C), n)
        cells = [base64.b64encode(a.astype(np.float32).tobytes()).decode() for a in arrays]
        if item == "item-12":
            cells[1] = cells[1][:-8]
        rows.append("\t".join([item, "90", "60", str(n), *cells]))
    path.write_text("\n".join(rows) + "\n")


def test_regions(catalogue, tmp_path):
    write_regions(tmp_path / "regions.tsv", [f"item-{i}" for i in range(8, 16)] + ["stranger"])
    shards = build(
        arguments(
            catalogue,
            tmp_path / "data",
            front_end="regions",
            region_features=str(tmp_path / "regions.tsv"),
            top_classes=3,
        )
    )
    info = shards.info
    assert (info.regions, info.feature_dim, info.classes, info.top_classes) == (36, F, C, 3)
    assert info.rejects["bad_regions"] == 1
    assert info.missing["picture"] == GOOD - 8  # a picture that the detector never saw is none
    assert shards.codebook is None
    items = {key: item for key, (_, item) in everything(shards).items()}
    assert "item-12" not in items
    item = items["item-8"]
    assert item["boxes"].shape == (36, 4)
    np.testing.assert_allclose(item["boxes"][0], [10 / 90, 5 / 60, 60 / 90, 50 / 60], rtol=1e-6)
    assert (item["features"].shape, item["features"].dtype) == ((36, F), np.float16)
    assert (item["class_ids"].shape, item["class_ids"].dtype) == ((36, 3), np.int32)
    assert (item["class_probs"].shape, item["class_probs"].dtype) == ((36, 3), np.float16)
    assert pixels.decode(item["picture"]).shape == (21, 32, 3)  # boxes fit: its aspect is kept
    assert items["item-9"]["features"].shape == (3, F)  # fewer regions stay fewer
    absent = items["item-0"]
    assert absent["features"].shape == (0, F)
    assert absent["class_probs"].shape == (0, 3)
    assert absent["picture"]
    # The code, not only the folder, knows the sizes of what is stored.
    builder = tfds.builder("k3m_products/regions", data_dir=tmp_path / "data")
    assert builder.as_data_source("train")[0]["features"].shape[1] == F


def test_regions_of_no_product_are_a_mistake(catalogue, tmp_path):
    write_regions(tmp_path / "regions.tsv", ["stranger"])
    with pytest.raises(UserError, match="must be the products' ids, such as 'item-"):
        build(
            arguments(
                catalogue,
                tmp_path / "data",
                front_end="regions",
                region_features=str(tmp_path / "regions.tsv"),
            )
        )


# One line alone, as any runner maps it


def test_the_record_maker_is_a_function_of_the_line(built, catalogue):
    job = local.LocalBuild(arguments(catalogue, "unused"), "unused")
    maker = pickle.loads(pickle.dumps(job.maker))
    assert isinstance(maker, RecordBuilder)
    outcomes = [maker(raw) for raw in job.catalogue.lines()]
    # An id given twice is no fault of either line; the whole catalogue shows it.
    assert sum(isinstance(o, BuiltRecord) for o in outcomes) == GOOD + 1
    assert sum(isinstance(o, RejectedLine) for o in outcomes) == 6
    made = outcomes[-1]
    _, stored = everything(built)[made.record["id"]]
    assert made.record["picture"] == stored["picture"]


# Mistakes, and what a build leaves behind


def test_nothing_is_overwritten_silently(catalogue, tmp_path):
    a = arguments(catalogue, tmp_path)
    first = build(a)
    with pytest.raises(UserError, match=r"exists: .*--overwrite"):
        build(a)
    again = build(dataclasses.replace(a, codebook_size=3, overwrite=True))
    assert len(again.codebook.centres) == 3
    assert first.folder == again.folder


def test_a_build_cut_short_leaves_nothing_that_looks_finished(catalogue, tmp_path, monkeypatch):
    def fail(self, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(local.Build, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        build(arguments(catalogue, tmp_path))
    with pytest.raises(UserError, match="no data set"):
        open_shards(tmp_path)
    # A process that was killed could not even clean up.
    cut = tmp_path / "k3m_products" / "patches" / "incomplete.ABC123_1.0.0"
    cut.mkdir()
    (cut / "build.json").write_text("{}")
    with pytest.raises(UserError, match="a build that was cut short"):
        open_shards(tmp_path)


def test_open_shards_finds_the_one_data_set(built, tmp_path):
    for path in (built.folder, built.folder.parent, built.folder.parent.parent.parent):
        assert open_shards(path).folder == built.folder
        assert open_shards(str(path)).info == built.info
    with pytest.raises(UserError, match="does not exist"):
        open_shards(tmp_path / "absent")
    for config in ("patches", "regions"):
        folder = tmp_path / "k3m_products" / config / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "build.json").write_text("{}")
    with pytest.raises(UserError, match=r"several data sets.*patches/1\.0\.0.*regions/1\.0\.0"):
        open_shards(tmp_path)
    with pytest.raises(UserError, match="not complete"):
        open_shards(tmp_path / "k3m_products" / "patches")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "--image_size 30 is not a multiple of --patch_size 8"),
        ({"patch_size": 2}, "--patch_size 2 is not a multiple of 4"),
        ({"front_end": "regions"}, "--region_features go together"),
        ({"region_features": "x.tsv"}, "--region_features go together"),
        ({"front_end": "pixels"}, "--front_end"),
        ({"valid_fraction": 1.0}, "--valid_fraction"),
        ({"workers": -1}, "--workers"),
        ({"folds": 1}, "--folds=1 --fold=0: folds are 0 or 2 and more"),
        ({"folds": 3, "fold": 3}, "--folds=3 --fold=3"),
        ({"fold": 1}, "--folds=0 --fold=1"),
        ({"codebook_size": 1}, "--codebook_size"),
        ({"input": "absent"}, "--input"),
    ],
)
def test_mistakes_are_named(catalogue, tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(arguments(catalogue, tmp_path, **changes))


def test_a_catalogue_of_rejects_says_why(tmp_path):
    (tmp_path / "products.jsonl").write_text('{"id": 1.5}\nno json\nno json\n')
    with pytest.raises(UserError, match=r"2 not_json, 1 wrong_type; .* line 1: id is float 1\.5"):
        build(arguments(tmp_path, tmp_path / "data"))
    (tmp_path / "cut.jpg").write_bytes(b"no picture")
    record = {"id": "a", "split": "train", "images": ["cut.jpg"]}
    (tmp_path / "products.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no record of split 'train' is usable: 1 bad_picture"):
        build(arguments(tmp_path, tmp_path / "data"))


@pytest.mark.slow
def test_the_command_line(catalogue, tmp_path):
    command = [sys.executable, "-m", "launch.build_shards", "--format=jsonl"]
    command += [f"--input={catalogue}", f"--output={tmp_path}", "--image_size=32", "--patch_size=8"]
    command += ["--workers=2", "--vocabulary_size=100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"set aside +\{.*rejects\.jsonl", done.stdout)
    assert "python -m launch.pretrain" in done.stdout
    assert "making" in done.stderr  # the progress bar
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "--overwrite" in again.stderr
