"""Building a data set from a small catalog full of trouble, and reading it back."""

import dataclasses
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from k3m_jax.data.build import local
from k3m_jax.data.build.local import build
from k3m_jax.data.build.record_builder import BuiltRecord, DatasetStatistics
from k3m_jax.data.input.tokenizer import count_words
from k3m_jax.data.records import RejectedLine
from k3m_jax.data.store.shards import FORMAT_VERSION, open_shards
from k3m_jax.modalities import REGISTRY, Title, pixels
from k3m_jax.modalities.base import Feature
from k3m_jax.settings import UserError
from launch.cli import EXIT_USER_ERROR, run_command
from tests.products import detected, having, products
from tests.troubled import GOOD, C, F, arguments, everything, write_catalog, write_regions


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    write_catalog(folder)
    return folder


@pytest.fixture(scope="module")
def built(catalog, tmp_path_factory):
    return build(arguments(catalog, tmp_path_factory.mktemp("data"), shards=3, vocabulary_size=120))


@pytest.fixture(scope="module")
def items(built):
    return {key: item for key, (_, item) in everything(built).items()}


def write_lines(folder, records, name="products.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, records)))


def test_every_usable_record_is_there_and_every_other_is_reported(built, items, tmp_path):
    assert set(items) == {f"item-{i}" for i in range(GOOD)}
    assert built.info.products == {"train": 18, "valid": 6}
    rejects = [json.loads(line) for line in (built.folder / "rejects.jsonl").open()]
    assert [r["line"] for r in rejects] == list(range(8, 15))
    assert all(r["file"] == "products.jsonl" and r["detail"] for r in rejects)
    assert built.info.rejects == write_catalog(tmp_path / "again")


def test_a_record_holds_what_the_catalog_says(built, items):
    item = items["item-9"]
    assert item.title == "shirt #9: größe 😀; L"
    assert item.triples == (("color", "c0"), ("color", "all:of;them#"), ("only", "v9"))
    assert (item.product, item.category, item.source) == ("p4", "Tops", "")
    picture = pixels.decode(item.picture)
    assert picture.shape == (32, 32, 3)
    class_ids = item.contents["image"].class_ids
    np.testing.assert_array_equal(class_ids, built.codebook.assign(pixels.patchify(picture, 8)))
    assert class_ids.dtype == np.int32


def test_missing_parts_are_empty_and_counted(built, items):
    assert items["item-0"].title == ""
    assert items["item-1"].triples == ()
    for key in ("item-2", "item-3"):
        assert items[key].picture == b""
        assert items[key].contents["image"].class_ids.shape == (0,)
    assert [value for _, value in items["item-4"].triples] == ["c1", "all:of;them#", "v4"]
    assert built.info.missing == {"image": 2, "title": 1, "knowledge": 1}
    assert built.info.repaired == {"picture_not_found": 1, "empty_triple": 1, "repeated_triple": 1}


def test_a_product_is_not_lost_over_one_part(catalog, items, tmp_path):
    shards = build(arguments(catalog, tmp_path, strict=False))
    assert shards.info.rejects == {"not_json": 1, "missing_id": 1, "repeated_id": 1}
    repaired = {"wrong_type": 1, "outside_folder": 1, "bad_picture": 1, "not_unicode": 1}
    repaired |= {"picture_not_found": 1, "empty_triple": 1, "repeated_triple": 1}
    assert shards.info.repaired == repaired
    found = everything(shards)
    assert found.keys() - items.keys() == {"types", "escape", "cut", "half"}
    assert found["escape"][1].title == "Ж"
    assert not any(found[key][1].picture for key in ("escape", "cut"))
    noted = [json.loads(line) for line in (shards.folder / "repairs.jsonl").open()]
    (cut,) = (line for line in noted if line["id"] == "cut")
    assert (cut["file"], cut["line"], cut["repair"]) == ("products.jsonl", 13, "bad_picture")
    assert len(noted) == sum(repaired.values())


def test_the_first_picture_that_loads_is_shown(catalog, tmp_path):
    lines = [
        {"id": "a", "images": ["images/cut.jpg", "lost.jpg", "images/1.jpg"], "split": "train"}
    ]
    folder = tmp_path / "in"
    shutil.copytree(catalog / "images", folder / "images")
    write_lines(folder, lines)
    shards = build(arguments(folder, tmp_path / "data", strict=False))
    assert shards.info.repaired == {"bad_picture": 1, "picture_not_found": 1}
    assert shards.info.missing["image"] == 0


def test_value_table_counts_train_and_lists_all(built):
    train = list(built.source("train"))
    for value, count in built.values["color"].items():
        assert count == sum(value in [v for _, v in item.triples] for item in train)
    assert len(built.values["only"]) == GOOD - 1
    assert built.values["only"]["v6"] == 0  # of a valid item alone
    for table in (built.values, *built.values.values()):
        assert list(table) == sorted(table)


def test_sizes_files_and_tokenizer(built):
    info = built.info
    assert (info.front_end, info.image_size, info.patch_size) == ("patches", 32, 8)
    assert (info.regions, info.feature_dim, info.classes, info.top_classes) == (16, 192, 12, 1)
    assert len(built.codebook.centres) == 12
    for split in ("train", "valid"):
        assert len(list(built.folder.glob(f"*-{split}.array_record*"))) == 3
    tokenizer = json.loads((built.tokenizer_folder / "tokenizer.json").read_text())
    vocabulary = set(tokenizer["model"]["vocab"])
    assert {"color", "ß"} <= vocabulary
    assert not {"Ω", "ω", "Ж", "ж"} & vocabulary  # of usable records of train alone


def test_tensorflow_is_not_needed():
    code = "import sys, k3m_jax.data.build.local; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_workers_and_line_order_change_nothing(built, catalog, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(catalog, turned)
    lines = (catalog / "products.jsonl").read_text().splitlines()
    good = [line for line in lines if '"product"' in line]
    (turned / "products.jsonl").write_text("\n".join(good[::-1]) + "\n")
    again = build(arguments(turned, tmp_path / "data", shards=3, workers=2))
    assert again.info.fingerprint == built.info.fingerprint
    for path in built.folder.glob("*.array_record*"):
        assert (again.folder / path.name).read_bytes() == path.read_bytes()
    for split in ("train", "valid"):  # in the order of TFDS's own shuffling
        order = [item.id for item in again.source(split)]
        assert order == sorted(order, key=lambda i: hashing.Hasher(split).hash_key(i.encode()))


def test_fingerprint_depends_on_contents_and_nothing_is_overwritten_silently(
    built, catalog, tmp_path
):
    a = arguments(catalog, tmp_path, image_size=16)
    first = build(a)
    assert first.info.fingerprint != built.info.fingerprint
    with pytest.raises(UserError, match=r"exists: .*--overwrite"):
        build(a)
    again = build(dataclasses.replace(a, codebook_size=3, overwrite=True))
    assert len(again.codebook.centres) == 3
    assert first.folder == again.folder


def test_records_without_a_split_are_dealt_out_by_product(tmp_path):
    write_lines(tmp_path, [{"id": f"{g}-{i}", "product": f"g{g}"} for g in range(20) for i in "ab"])
    shards = build(arguments(tmp_path, tmp_path / "data", valid_fraction=0.4))
    assert sum(shards.info.products.values()) == 40
    train, valid = ({item.product for item in shards.source(s)} for s in ("train", "valid"))
    assert train
    assert valid
    assert not train & valid


def test_folds_hold_out_each_product_once_whatever_its_split(tmp_path):
    splits = "train", "valid"
    lines = [
        {"id": f"{g}-{i}", "product": f"g{g}", "split": splits[g % 2]}
        for g in range(30)
        for i in "ab"
    ]
    write_lines(tmp_path, lines)
    pair = {"label": 1, "split": "train"}  # of what it was before
    pairs = [{"a": f"{g}-a", "b": f"{g}-b", **pair} for g in range(30)]
    write_lines(tmp_path, [*pairs, {"a": "0-a", "b": "1-b", **pair}], "align_pairs.jsonl")
    folds, apart = [], 0
    for fold in range(3):
        how = {"folds": 3, "fold": fold, "valid_fraction": 0.2, "front_end": "patches"}
        shards = build(arguments(tmp_path, tmp_path / f"fold{fold}", **how))
        split = {s: {x.product for x in shards.source(s)} for s in shards.info.products}
        assert set(split) == {"train", "valid", "test"}
        assert sum(map(len, split.values())) == 30  # no product in two of them
        assert sum(shards.info.pairs.values()) + sum(shards.info.rejects.values()) == 31
        apart += shards.info.rejects.get("pair_split_apart", 0)
        folds.append(split["test"])
    assert set.union(*folds) == {f"g{g}" for g in range(30)}
    assert sum(map(len, folds)) == 30
    assert apart <= 3  # nothing but the pair of two products


def test_further_splits_are_kept(tmp_path):
    names = ("test_unseen", "valid", "train", "test", "order", "Test")
    write_lines(tmp_path, [{"id": s, "split": s} for s in names])
    shards = build(arguments(tmp_path, tmp_path / "data"))
    assert list(shards.info.products) == ["train", "valid", *sorted({*names} - {"train", "valid"})]
    assert all([item.id for item in shards.source(s)] == [s] for s in names)


def test_regions(catalog, tmp_path):
    path = tmp_path / "regions.tsv"
    given = {"front_end": "regions", "region_features": str(path), "top_classes": 3}
    given = arguments(catalog, tmp_path / "data", **given)
    write_regions(path, ["stranger"])
    with pytest.raises(UserError, match="must be the products' ids, such as 'item-"):
        build(given)
    write_regions(path, [f"item-{i}" for i in range(8, 16)] + ["stranger"])
    shards = build(given)
    info = shards.info
    assert (info.regions, info.feature_dim, info.classes, info.top_classes) == (36, F, C, 3)
    assert info.rejects["bad_regions"] == 1
    assert info.missing["image"] == GOOD - 8  # a picture that the detector never saw is none
    assert shards.codebook is None
    items = {key: item for key, (_, item) in everything(shards).items()}
    assert "item-12" not in items
    picture = items["item-8"].contents["image"]
    assert picture.boxes.shape == (36, 4)
    np.testing.assert_allclose(picture.boxes[0], [10 / 90, 5 / 60, 60 / 90, 50 / 60], rtol=1e-6)
    assert (picture.features.shape, picture.features.dtype) == ((36, F), np.float16)
    assert (picture.class_ids.shape, picture.class_ids.dtype) == ((36, 3), np.int32)
    assert (picture.class_probs.shape, picture.class_probs.dtype) == ((36, 3), np.float16)
    assert pixels.decode(picture.jpeg).shape == (21, 32, 3)  # boxes fit: its aspect is kept
    assert items["item-9"].contents["image"].features.shape == (3, F)  # fewer regions stay fewer
    absent = items["item-0"].contents["image"]
    assert absent.features.shape == (0, F)
    assert absent.class_probs.shape == (0, 3)
    assert absent.jpeg
    # The code, not only the folder, knows the sizes of what is stored.
    builder = tfds.builder("k3m_products/regions", data_dir=tmp_path / "data")
    assert builder.as_data_source("train")[0]["features"].shape[1] == F


def test_the_record_builder_is_a_function_of_the_line(items, catalog, tmp_path):
    job = local.Build(arguments(catalog, "unused"), tmp_path)
    builder = pickle.loads(pickle.dumps(job.builder))
    outcomes = [builder(raw) for raw in job.catalog.lines()]
    # An id that is used twice is no fault of either line; only the whole catalog shows it.
    assert sum(isinstance(o, BuiltRecord) for o in outcomes) == GOOD + 1
    assert sum(isinstance(o, RejectedLine) for o in outcomes) == 6
    record = outcomes[-1].record
    assert record.picture == items[record.id].picture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "--image_size 30 is not a multiple of --patch_size 8"),
        ({"patch_size": 2}, "--patch_size 2 is not a multiple of"),
        ({"front_end": "regions"}, "--region_features go together"),
        ({"region_features": "x.tsv"}, "--region_features go together"),
        ({"front_end": "pixels"}, "--front_end"),
        ({"valid_fraction": 1.5}, "--valid_fraction"),
        ({"workers": -1}, "--workers"),
        ({"folds": 1}, "--folds=1 --fold=0: folds are 0 or 2 and more"),
        ({"folds": 3, "fold": 3}, "--folds=3 --fold=3"),
        ({"fold": 1}, "--folds=0 --fold=1"),
        ({"codebook_size": 1}, "--codebook_size"),
        ({"input": "absent"}, "--input"),
    ],
)
def test_mistakes_are_named(catalog, tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(arguments(catalog, tmp_path, **changes))


def test_a_catalog_of_rejects_says_why(tmp_path):
    (tmp_path / "products.jsonl").write_text('{"id": 1.5}\nno json\nno json\n')
    with pytest.raises(UserError, match=r"2 not_json, 1 wrong_type; .* line 1: id is 1\.5"):
        build(arguments(tmp_path, tmp_path / "data"))
    (tmp_path / "cut.jpg").write_bytes(b"no picture")
    write_lines(tmp_path, [{"id": "a", "split": "train", "images": ["cut.jpg"]}])
    with pytest.raises(UserError, match="no record of split 'train' is usable: 1 bad_picture"):
        build(arguments(tmp_path, tmp_path / "data"))


def test_statistics_are_the_same_in_parts_as_at_once():
    outcomes = [
        BuiltRecord("valid" if i % 5 == 0 else "train", item, ("empty_triple",) * (i % 2))
        for i, item in enumerate(products(40))
    ]
    outcomes += [
        BuiltRecord("train", having(item, image=detected(i, boxes=i % 4)), ())
        for i, item in enumerate(products(9, first=50))
    ]
    outcomes.insert(3, RejectedLine("f", 4, "bad_picture", ""))

    def summed(parts):
        whole = DatasetStatistics(frozenset({"id3", "id7", "unknown"}))
        for part in range(parts):
            total = DatasetStatistics(frozenset({"id3", "id7", "unknown"}))
            for outcome in outcomes[part::parts]:
                total.add(outcome)
            whole.merge(pickle.loads(pickle.dumps(total)))
        return whole

    once, parts = summed(1), summed(7)
    assert vars(once) == vars(parts)
    assert once.sizes == {"regions": 3, "classes": 5}
    assert once.missing == {"title": 0, "image": 3, "knowledge": 0}
    assert once.paired.keys() == {"id3", "id7"}
    # A Counter takes an absent key for 0: held-out values must be there, also where they merge.
    assert {p: set(v) for p, v in once.values.items()} == {
        p: set(v) for p, v in parts.values.items()
    }
    train = [o.record for o in outcomes if isinstance(o, BuiltRecord) and o.split == "train"]
    texts = [text for r in train for text in (r.title, *(t for pair in r.triples for t in pair))]
    assert once.words == count_words(texts)


def test_a_missing_modality_has_no_part_in_the_fingerprint():
    item, *_ = products(1)
    prints = set()
    for contents in ({}, {"title": ""}, {"title": "", "knowledge": ()}):
        found = DatasetStatistics()
        found.add(BuiltRecord("train", having(item, **contents), ()))
        prints.add(found.fingerprint)
    assert len(prints) == 3


def test_tfds_reads_it_by_name_and_by_folder(built):
    root = built.folder.parent.parent.parent
    for builder in (
        tfds.builder("k3m_products/patches", data_dir=root),
        tfds.builder_from_directory(built.folder),
    ):
        assert str(builder.version) == FORMAT_VERSION
        assert builder.info.splits["train"].num_examples == 18
        item = builder.as_data_source("valid")[0]
        assert item["id"].decode() == built.source("valid")[0].id


def test_a_source_pickles_and_names_its_content(built):
    source = built.source("train")
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source) == 18
    assert again[7].id == source[7].id
    assert built.info.fingerprint in repr(source)
    with pytest.raises(UserError, match="no split 'test', only train, valid"):
        built.source("test")


def test_a_build_cut_short_leaves_nothing_that_looks_finished(catalog, tmp_path, monkeypatch):
    def fail(self, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(local.Build, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        build(arguments(catalog, tmp_path))
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
        folder = tmp_path / "k3m_products" / config / FORMAT_VERSION
        folder.mkdir(parents=True)
        (folder / "build.json").write_text("{}")
    with pytest.raises(UserError, match=r"several data sets.*patches.*regions"):
        open_shards(tmp_path)
    with pytest.raises(UserError, match="not complete"):
        open_shards(tmp_path / "k3m_products" / "patches")
    (folder / "dataset_info.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(UserError, match=r"version 1\.0\.0.*build it again"):
        open_shards(folder)


def test_shards_of_before_a_modality_existed_are_read(built, monkeypatch):
    class Reviews(Title):
        @classmethod
        def features(cls, layout):
            return {"reviews": Feature((), str)}

    monkeypatch.setitem(REGISTRY, "reviews", Reviews)
    assert built.source("train")[0].contents["reviews"] == ""


def test_the_command_line(catalog, tmp_path, capsys):
    sizes = ["--image_size=32", "--patch_size=8", "--workers=0", "--vocabulary_size=100"]
    flags = ["--format=jsonl", f"--input={catalog}", f"--output={tmp_path}", *sizes]
    assert run_command("launch.build_shards", flags) == 0
    shown = capsys.readouterr()
    assert re.search(r"set aside +\{.*rejects\.jsonl", shown.out)
    assert "python -m launch.pretrain" in shown.out
    assert "building" in shown.err  # the progress bar
    assert run_command("launch.build_shards", flags) == EXIT_USER_ERROR
    assert "--overwrite" in capsys.readouterr().err
