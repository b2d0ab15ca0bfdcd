import dataclasses
import pickle

import numpy as np
import pytest

from k3m_jax.data.store.codebook import Codebook, describe
from k3m_jax.modalities.pixels import decode, patchify
from k3m_jax.modalities.regions import ErrorLog, RegionReader
from k3m_jax.settings import Image
from tests.products import detected, jpeg, record

PATCHES = Image(front_end="patches", regions=4, patch_size=4)
REGIONS = Image(front_end="regions", regions=4, feature_dim=6, top_classes=3)


def test_a_picture_becomes_its_patches_each_of_one_class():
    regions = RegionReader(PATCHES)(record(1, []))["regions"]
    np.testing.assert_array_equal(regions.inputs, patchify(decode(jpeg(1)), 4))
    assert regions.inputs.dtype == np.uint8
    assert regions.boxes[1].tolist() == [0.5, 0, 1, 0.5]
    assert regions.class_ids[:, 0].tolist() == [1, 2, 3, 4]
    assert (regions.class_probs == 1).all()


def test_another_codebook_gives_its_own_classes():
    patches = patchify(decode(jpeg(1)), 4)
    codebook = Codebook(describe(patches, 4)[::-1], 4)
    regions = RegionReader(PATCHES, codebook)(record(1, []))["regions"]
    assert regions.class_ids[:, 0].tolist() == [3, 2, 1, 0]


def test_absent_is_absent_without_being_a_fault():
    read = RegionReader(PATCHES)
    assert read(record(1, [], picture=b"", class_ids=np.zeros(0, int)))["regions"] is None
    assert not read.faults.counts
    read = RegionReader(REGIONS)
    assert read(record(1, [], **detected(1, boxes=0)))["regions"] is None
    assert not read.faults.counts


@pytest.mark.parametrize(
    "broken",
    [
        {"picture": jpeg(1)[:100]},
        {"picture": b"no picture"},
        {"picture": jpeg(1, 16)},
        {"class_ids": np.zeros(3, np.int32)},
    ],
)
def test_a_broken_picture_counts_as_absent_and_is_counted(broken):
    read = RegionReader(PATCHES)
    item = read(record(1, [("colour", "red")], **broken))
    assert item["regions"] is None
    assert item["values"] == ["red"]
    assert read.faults.counts.total() == 1


def test_detected_regions_are_normalised_and_the_surest_kept():
    item = record(1, [], **detected(1, boxes=9))
    regions = RegionReader(REGIONS)(item)["regions"]
    surest = np.sort(np.argsort(-item["class_probs"].max(1).astype(float), kind="stable")[:4])
    np.testing.assert_array_equal(regions.inputs, item["features"][surest])
    np.testing.assert_array_equal(regions.boxes, item["boxes"][surest])
    np.testing.assert_allclose(regions.class_probs.sum(1), 1, rtol=1e-6)
    assert regions.class_probs.dtype == np.float32


def test_only_the_most_probable_classes_are_kept():
    image = dataclasses.replace(REGIONS, top_classes=1)
    item = record(1, [], **detected(1))
    for key in ("class_ids", "class_probs"):
        item[key] = item[key][:, ::-1]
    regions = RegionReader(image)(item)["regions"]
    np.testing.assert_array_equal(regions.class_ids[:, 0], item["class_ids"][:, -1])
    assert (regions.class_probs == 1).all()


def test_regions_without_any_class_have_no_distribution():
    item = record(1, [], **detected(1))
    item["class_probs"] = np.zeros((4, 0), np.float16)
    item["class_ids"] = np.zeros((4, 0), np.int32)
    assert RegionReader(REGIONS)(item)["regions"].class_probs.shape == (4, 0)


@pytest.mark.parametrize("key", ["features", "boxes"])
def test_features_that_are_not_numbers_or_of_another_size_are_faults(key):
    read = RegionReader(REGIONS)
    item = record(1, [], **detected(1))
    item[key] = item[key] * np.float32("nan")
    assert read(item)["regions"] is None
    assert read(record(2, [], **detected(2, width=5)))["regions"] is None
    assert read.faults.counts == {"ValueError": 2}


def test_the_log_tells_the_scale_of_faults_without_being_long(monkeypatch):
    logged = []
    monkeypatch.setattr("absl.logging.warning", lambda *args: logged.append(args[2]))
    faults = ErrorLog()
    for _ in range(250):
        faults.add("OSError", "id1: broken")
    faults.add("ValueError", "id2: broken")
    assert logged == [1, 10, 100, 1]
    assert faults.counts == {"OSError": 250, "ValueError": 1}


def test_it_travels_to_worker_processes():
    read = pickle.loads(pickle.dumps(RegionReader(PATCHES)))
    assert read(record(1, []))["regions"].inputs.shape == (4, 48)
