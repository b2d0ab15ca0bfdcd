"""Folders of products as they come, opened for a run."""

import json

import pytest

from k3m_jax.data.build_arguments import BuildArguments
from k3m_jax.data.building import build
from k3m_jax.experiments.raw_catalogues import open_sources
from k3m_jax.settings import UserError
from tests import products as made


def write(folder, split, numbers):
    folder.mkdir()
    lines = []
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(made.jpeg(number, 16))
        lines.append({"id": str(number), "images": [f"{number}.jpg"], "split": split})
    (folder / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pair = {"a": str(numbers[0]), "b": str(numbers[1]), "label": 1}
    (folder / "align_pairs.jsonl").write_text(json.dumps(pair))
    return str(folder)


@pytest.fixture
def own(tmp_path):
    catalogue = write(tmp_path / "own", "train", range(4))
    sizes = {"image_size": 16, "patch_size": 8, "codebook_size": 3, "vocabulary_size": 0}
    return build(BuildArguments("jsonl", catalogue, str(tmp_path / "shards"), **sizes))


def test_a_folder_is_built_once_as_the_runs_own_data_are(own, tmp_path):
    raw = write(tmp_path / "raw", "test_unseen", range(10, 13))
    found, shards = open_sources([raw, str(own.folder)], own, tmp_path / "run")
    assert shards.folder == own.folder
    assert found.info.products == {"test_unseen": 3}
    assert found.info.pairs == {"test_unseen": 1}
    assert found.info.patch_size == own.info.patch_size
    built = (found.folder / "build.json").stat().mtime
    (again,) = open_sources([raw], own, tmp_path / "run")
    assert (again.folder / "build.json").stat().mtime == built
    (tmp_path / "raw" / "10.jpg").write_bytes(made.jpeg(10, 24))
    (other,) = open_sources([raw], own, tmp_path / "run")
    assert other.folder != found.folder


def test_a_folder_of_neither_kind_is_told(own, tmp_path):
    with pytest.raises(UserError, match="no data set"):
        open_sources([str(tmp_path / "nothing")], own, tmp_path / "run")
