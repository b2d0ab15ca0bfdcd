"""Runs and data sets in a bucket, through a stand-in for one."""

import contextlib
import functools
import http.server
import importlib
import io
import json
import pathlib
import shutil
import threading
import urllib.parse

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from etils.epath import backend
from exported import export, tiny_model, tiny_params
from orbax.checkpoint._src.path import gcs_utils

from k3m_jax.data.build.local import build
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.store import remote
from k3m_jax.data.store.shards import open_shards
from k3m_jax.evaluation.curves import draw_curves
from k3m_jax.model.network import flat
from k3m_jax.pretrained.importing import import_weights
from k3m_jax.pretrained.weights_file import WEIGHTS, read_weights
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.dump import job_of, vector_table, vectors_of
from k3m_jax.settings import UserError
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_meta
from k3m_jax.training.progress import METRICS, TIMING, MetricWriter, read_metrics
from tests.buckets import Buckets
from tests.pretrained import HF_BERT, bert_settings
from tests.troubled import arguments, everything, write_catalog


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder, in which a path that lost its "gs://" would show."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    yield
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def bucket(monkeypatch):
    """The address of an empty bucket."""
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is something else
    for name in Buckets.protocol:
        monkeypatch.setitem(registry._registry, name, Buckets)
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "pseudo_dirs", [""])
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield "gs://bucket"
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_a_path_of_a_store_stays_one(bucket):
    for path in ("gs://b/run", epath.Path("gs://b/run")):
        assert remote.is_remote(path)
        assert str(remote.absolute(path)) == "gs://b/run"
    assert not remote.is_remote("runs/first")
    assert remote.absolute("runs") == epath.Path(pathlib.Path.cwd() / "runs")


def test_a_data_set_is_built_in_a_bucket_and_read_from_it(bucket, tmp_path, monkeypatch):
    write_catalog(tmp_path / "in")
    kept = {"shards": 2, "vocabulary_size": 120}
    local = build(arguments(tmp_path / "in", tmp_path / "out", **kept))
    built = build(arguments(tmp_path / "in", f"{bucket}/data", **kept))
    assert str(built.folder) == "gs://bucket/data/k3m_products/patches/2.0.0"
    names = {path.name for path in local.folder.iterdir()}
    assert {path.name for path in built.folder.iterdir()} == names
    opened = open_shards("gs://bucket/data")
    assert opened.info == local.info
    assert opened.values == local.values
    np.testing.assert_array_equal(opened.codebook.centres, local.codebook.centres)
    assert (opened.tokenizer_folder / "tokenizer.json").read_text()
    mine, theirs = everything(local), everything(opened)
    assert mine.keys() == theirs.keys()
    assert all(mine[key][1].picture == theirs[key][1].picture for key in mine)
    # What was brought here once is not brought again.
    monkeypatch.setattr(remote, "_copy", None)
    assert len(open_shards("gs://bucket/data").source("train")) == 18
    with pytest.raises(UserError, match=r"exists: .*--overwrite"):
        build(arguments(tmp_path / "in", f"{bucket}/data", **kept))
    again = build(arguments(tmp_path / "in", f"{bucket}/data", image_size=16, overwrite=True))
    assert again.info.image_size == 16


def test_a_catalog_in_a_bucket_is_read(bucket, tmp_path):
    write_catalog(tmp_path / "in")
    for file in (tmp_path / "in").rglob("*.*"):
        target = epath.Path(bucket) / "in" / file.relative_to(tmp_path / "in")
        epath.Path(file).copy(target)
    local = build(arguments(tmp_path / "in", tmp_path / "out"))
    assert build(arguments(f"{bucket}/in", tmp_path / "out2")).info.fingerprint == (
        local.info.fingerprint
    )


def test_shards_that_do_not_fit_on_the_disk_are_a_mistake(bucket, tmp_path, monkeypatch):
    write_catalog(tmp_path / "in")
    build(arguments(tmp_path / "in", f"{bucket}/data"))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="name a larger disk in TMPDIR, or mount the store"):
        open_shards(f"{bucket}/data", copy="always").source("train")
    monkeypatch.setattr(remote, "IN_PLACE", "s3://")
    with pytest.raises(UserError, match="name a larger disk in TMPDIR, or mount the store"):
        open_shards(f"{bucket}/data").source("train")
    with pytest.raises(UserError, match=r"data\.copy=never"):
        open_shards(f"{bucket}/data", copy="never").source("train")


class Storage(http.server.BaseHTTPRequestHandler):
    """What ArrayRecord's client asks Cloud Storage for, from a dictionary of files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.asked.append(path)
        data = self.server.files[path.partition("/o/")[2]]
        start, end = 0, len(data)
        if span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = int(last) + 1 if first and last else len(data)
        self.send_response(206 if span else 200)
        self.send_header("x-goog-generation", "1")
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data[start:end])))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have enough
            self.wfile.write(data[start:end])


@pytest.fixture
def storage(monkeypatch):
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    running.files, running.asked = {}, []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
    yield running
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("copy", ["never", "auto"])
def test_shards_are_read_where_they_lie(bucket, storage, tmp_path, monkeypatch, copy):
    write_catalog(tmp_path / "in")
    local = build(arguments(tmp_path / "in", tmp_path / "out"))
    for file in pathlib.Path(local.folder).rglob("*.*"):
        name = file.relative_to(tmp_path / "out")
        epath.Path(file).copy(epath.Path(bucket) / name)
        storage.files[str(name)] = file.read_bytes()
    monkeypatch.setattr(remote, "_copy", None)
    usage = shutil.disk_usage(tmp_path)._replace(free=10 if copy == "auto" else 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    opened = open_shards(bucket, copy=copy)
    mine, theirs = everything(local), everything(opened)
    assert {k: v[1].picture for k, v in mine.items()} == {
        k: v[1].picture for k, v in theirs.items()
    }
    assert all(".array_record" in path for path in storage.asked)
    assert storage.asked


def test_metrics_events_and_curves_of_a_run_in_a_bucket(bucket):
    workdir = epath.Path(bucket) / "runs/first"
    writer = MetricWriter(workdir, 0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1 / step})
        writer.write(step, "timing", {"items": 7.0})
    writer.flush()
    assert [line["step"] for line in read_metrics(workdir / METRICS)] == [1, 2, 3]
    writer.write(4, "train", {"loss": 0.1})  # and then the process is gone
    writer = MetricWriter(workdir, 2)
    writer.write(3, "train", {"loss": 9.0})
    writer.close()
    lines = read_metrics(workdir / METRICS)
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [json.loads(t)["step"] for t in (workdir / TIMING).read_text().splitlines()] == [1, 2]
    (closed,) = (workdir / "tensorboard").glob("*.2")
    assert closed.stat().length > 50
    draw_curves({"": lines}, workdir / "curves.png")
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_weights_are_imported_from_a_bucket_into_a_bucket(bucket, tmp_path):
    for file in HF_BERT.iterdir():
        epath.Path(file).copy(epath.Path(bucket) / "bert" / file.name)
    import_weights("bert", HF_BERT, tmp_path / "weights", bert_settings(), None)
    import_weights("bert", f"{bucket}/bert", f"{bucket}/weights", bert_settings(), None)
    local, local_meta = read_weights(tmp_path / "weights" / WEIGHTS)
    weights, meta = read_weights(f"{bucket}/weights/{WEIGHTS}")
    assert meta == local_meta | {"source": "bert"}
    assert weights.keys() == local.keys()
    assert all(np.array_equal(weights[name], array) for name, array in local.items())
    with pytest.raises(UserError, match="gs://bucket/weights exists and is not empty"):
        import_weights("bert", HF_BERT, f"{bucket}/weights", bert_settings(), None)


def test_a_model_is_exported_to_a_bucket_and_opened_there(bucket):
    export(epath.Path(bucket) / "model", tiny_model(), card="# A model")
    model = from_pretrained(f"{bucket}/model")
    expected = flat(tiny_params(tiny_model()))
    assert all(np.array_equal(x, expected[name]) for name, x in flat(model.params).items())
    assert (epath.Path(bucket) / "model/README.md").read_text() == "# A model"
    (epath.Path(bucket) / "dump/products.jsonl").write_text('{"id": "a"}\n{}\n{"id": "b"}\n')
    output, catalog = epath.Path(bucket) / "shop", open_catalog("jsonl", f"{bucket}/dump")
    job = job_of(model, catalog, output, {}, rows=8)
    job.write(functools.partial(vector_table, model, dtype="float32"))
    assert "missing_id" in (output / "_part-00000.rejects.jsonl").read_text()
    table = pq.read_table(io.BytesIO((output / "part-00000.parquet").read_bytes()))
    assert table["id"].to_pylist() == ["a", "b"]
    assert vectors_of(table).shape == (2, 32)
    assert {path.name[0] for path in output.iterdir()} == {"_", "p"}


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_a_folder_is_whole_or_not_there(bucket, tmp_path, where):
    folder = epath.Path(bucket if where == "bucket" else tmp_path) / "models/first"

    def stopped(partial):
        (partial / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), remote.whole_folder(folder) as partial:
        stopped(partial)
    assert not folder.exists()
    with remote.whole_folder(folder) as partial:
        (partial / "weights").write_text("all")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("weights", "all")]
    assert [path.name for path in folder.parent.iterdir()] == ["first"]


def test_a_folder_that_cannot_be_made_is_a_mistake(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"--output: .*file/model can't be written"),
        remote.whole_folder(tmp_path / "file/model"),
    ):
        pass


def test_only_what_is_new_is_pushed(bucket):
    folder = remote.LocalFolder(f"{bucket}/profile")
    (folder.path / "plugins").mkdir()
    (folder.path / "plugins/a").write_text("a")
    folder.push()
    target = epath.Path(bucket) / "profile/plugins"
    (target / "a").write_text("seen")
    (folder.path / "plugins/b").write_text("b")
    folder.close()
    assert {p.name: p.read_text() for p in target.iterdir()} == {"a": "seen", "b": "b"}
    assert not folder.path.exists()


def test_checkpoints_look_for_a_run_in_its_bucket(bucket, monkeypatch):
    """As far as a stand-in goes: tensorstore, which writes arrays, talks to Google itself."""
    # Orbax asks the bucket how it is organised, through a client of its own.
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    meta = Meta(settings={}, data=[], vocabulary="", versions={})
    with contextlib.closing(Checkpoints(f"{bucket}/runs/first", meta, 1)) as checkpoints:
        assert checkpoints.restore(None) is None
    assert (epath.Path(bucket) / "runs/first/checkpoints").is_dir()
    with pytest.raises(UserError, match="gs://bucket/runs/first/checkpoints has no finished"):
        load_meta(epath.Path(bucket) / "runs/first")
    with pytest.raises(UserError, match="gs://bucket/runs/second has no checkpoints"):
        load_meta(epath.Path(bucket) / "runs/second")
