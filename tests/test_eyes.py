"""Models of regions that know which frozen model made them: pictures go straight in."""

import contextlib
import dataclasses
import functools

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath

from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.input.pipeline import open_inputs, train_batches
from k3m_jax.modalities import pixels
from k3m_jax.model.network import Network
from k3m_jax.pretrained import vision
from k3m_jax.runs.measure import open_source
from k3m_jax.serving.dump import job_of, vector_table, vectors_of
from k3m_jax.serving.export import portable
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import Backbone, UserError
from tests.exported import tiny_params
from tests.eyes import SIZE, Eyes, extract, write_dump
from tests.products import jpeg, tokenizer
from tests.tiny import DETECTED

MADE = Eyes().identity


@pytest.fixture
def dump(tmp_path):
    return write_dump(tmp_path / "dump")


@pytest.fixture
def opened(monkeypatch):
    """Frozen models that are opened, by name and folder, instead of real ones."""
    names = []
    monkeypatch.setattr(
        vision, "open_backbone", lambda name, size, grid: names.append(name) or Eyes(model=name)
    )
    return names


def data_set(dump, output, eyes=None):
    regions = output / "regions"
    extract(eyes or Eyes(), dump, regions)
    given = {"front_end": "regions", "region_features": str(regions)}
    return build(BuildArguments("jsonl", str(dump), str(output / "data"), **given))


def settings(backbone=MADE):
    model = dataclasses.replace(DETECTED.model, vocabulary=tokenizer().size)
    image = dataclasses.replace(DETECTED.image, backbone=backbone)
    return dataclasses.replace(DETECTED, model=model, image=image)


def model(backbone=MADE, folder=""):
    network = Network(settings(backbone))
    return ProductModel(network, tiny_params(network), tokenizer(), folder)


def test_a_run_has_the_frozen_model_of_its_data(dump, tmp_path):
    shards = data_set(dump, tmp_path)
    data = dataclasses.replace(DETECTED.data, sources=(str(shards.folder),))
    chosen = dataclasses.replace(
        DETECTED,
        data=data,
        image=dataclasses.replace(DETECTED.image, classes=0),
        model=dataclasses.replace(DETECTED.model, vocabulary=0),
    )
    inputs = open_inputs(data)
    resolved = inputs.resolve(chosen)
    assert resolved.image.backbone == MADE
    # Four regions where the model has places for six.
    wide = dataclasses.replace(resolved, image=dataclasses.replace(resolved.image, regions=6))
    with contextlib.closing(train_batches(wide, inputs)) as batches:
        batch = next(batches)
    seen = batch["region_mask"][:, 1:]
    assert set(seen.sum(1)) == {0, 4}
    np.testing.assert_allclose(batch["class_probs"].sum(-1), seen, atol=1e-6)
    assert batch["region_inputs"][seen].any(-1).all()
    other = data_set(dump, tmp_path / "other", Eyes(weights="eight"))
    mixed = inputs._replace(shard_sets=[shards, other])
    with pytest.raises(UserError, match="different frozen models"):
        mixed.resolve(chosen)
    image = dataclasses.replace(chosen.image, backbone=Eyes(weights="eight").identity)
    with pytest.raises(UserError, match="different frozen models"):
        inputs.resolve(dataclasses.replace(chosen, image=image))


def test_a_picture_becomes_the_regions_that_its_frozen_model_sees(opened):
    seen, item = pixels.squeeze(jpeg(1, 20), SIZE), model()
    absent, given = item.record("a"), item.record("a", regions=Eyes().regions(seen))
    assert opened == []
    made = item.record("a", picture=jpeg(1, 20))
    assert opened == ["eyes"]
    assert len(made.contents["image"].boxes) == 4
    looked, read, none = item.embed([made, given, absent])
    np.testing.assert_array_equal(looked, read)
    assert np.abs(looked - none).max() > 1e-3
    model(folder="/elsewhere").record("a", picture=jpeg(1, 20))
    assert opened == ["eyes", "/elsewhere"]


def test_what_is_missing_is_said_in_one_line(opened):
    with pytest.raises(UserError, match="other weights than the eyes"):
        model(Backbone("eyes", "eight", 8, 2)).record("a", picture=jpeg(1, 20))
    with pytest.raises(UserError, match="not known what made the regions"):
        model(Backbone()).record("a", picture=jpeg(1, 20))


def test_a_dump_is_looked_at_or_read(dump, tmp_path, opened):
    item, catalog = model(), open_catalog("jsonl", dump)

    def embed(name, **options):
        job = job_of(item, catalog, epath.Path(tmp_path / name), {}, rows=4, **options)
        report = job.write(functools.partial(vector_table, item, dtype="float32"))
        return report, vectors_of(pq.read_table(tmp_path / name))

    report, looked = embed("1")
    assert '"image": 4' in report
    assert '"bad_picture": 2' in report
    extract(Eyes(), dump, tmp_path / "regions")
    _, read = embed("2", region_features=str(tmp_path / "regions"))
    np.testing.assert_array_equal(looked, read)


def test_a_run_of_regions_is_measured_on_a_folder_of_pictures(dump, tmp_path, opened):
    own = data_set(dump, tmp_path)
    other = write_dump(tmp_path / "other", lines=7)
    lines = (other / "products.jsonl").read_text().replace("{", '{"split": "test", ')
    (other / "products.jsonl").write_text(lines)
    shards = open_source(str(other), own, tmp_path / "run")
    assert shards.info.products == {"test": 7}
    assert shards.info.backbone == own.info.backbone
    assert [len(record.contents["image"].boxes) for record in shards.source("test")].count(4) == 5
    assert open_source(str(other), own, tmp_path / "run").folder == shards.folder
    assert opened == ["eyes"]


def test_no_path_of_this_machine_is_exported(tmp_path):
    folder = tmp_path / "my_model"
    folder.mkdir()
    chosen = settings(dataclasses.replace(Eyes().identity, model=str(folder)))
    assert portable(chosen).image.backbone.model == "my_model"
    assert portable(settings()).image.backbone == Eyes().identity
