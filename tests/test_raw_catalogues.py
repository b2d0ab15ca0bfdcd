"""Folders of products as they come, opened for a run."""

import json

import pytest

from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.report import ExternalDataInfo
from k3m_jax.runs import adhoc_datasets
from k3m_jax.runs.adhoc_datasets import open_sources
from k3m_jax.settings import Task, UserError
from k3m_jax.tasks.examples import task_dataset
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
    picture = tmp_path / "raw" / "10.jpg"
    picture.write_bytes(bytes(len(picture.read_bytes())))
    (other,) = open_sources([raw], own, tmp_path / "run")
    assert other.folder != found.folder


def test_of_two_processes_that_build_one_folder_the_second_opens_what_the_first_has(
    own, tmp_path, monkeypatch
):
    def overtaken(arguments):
        build(arguments)
        raise FileExistsError(arguments.folder)

    monkeypatch.setattr(adhoc_datasets, "build", overtaken)
    raw = write(tmp_path / "raw", "test", range(10, 13))
    (found,) = open_sources([raw], own, tmp_path / "run")
    assert found.info.products == {"test": 3}


def test_what_a_folder_lacks_is_told_with_what_was_measured_on_it(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 14))
    (raw / "11.jpg").unlink()
    with (raw / "products.jsonl").open("a") as file:
        file.write("\n{")
    found = open_sources([str(raw)], own, tmp_path / "run")
    told = ExternalDataInfo.of([str(raw)], found)
    assert (told.items, told.repaired) == (4, {"picture_not_found": 1})
    assert told.missing == {"picture": 1, "title": 4, "triples": 4}
    assert told.set_aside == {"not_json": 1}
    assert ExternalDataInfo.of_json(json.loads(json.dumps(told.json()))) == told
    assert str(told) == (
        f"Measured on {raw}. All splits: 4 items; missing: 1 picture, 4 title, 4 triples; "
        "repaired: 1 picture_not_found; set aside: 1 not_json."
    )
    again = ExternalDataInfo.of([str(raw), "own"], [*found, own])
    assert (again.items, again.missing["title"], again.set_aside) == (8, 8, {"not_json": 1})


def test_other_pairs_of_the_same_items_are_other_products_to_measure_on(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 13))
    before = ExternalDataInfo.of(["raw"], open_sources([str(raw)], own, tmp_path / "run"))
    (raw / "align_pairs.jsonl").write_text(json.dumps({"a": "10", "b": "12", "label": 0}))
    found = open_sources([str(raw)], own, tmp_path / "run")
    assert before.digest != ExternalDataInfo.of(["raw"], found).digest


def test_why_nothing_can_be_asked_is_told_of_the_folder_that_was_named(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 13))
    (raw / "align_pairs.jsonl").write_text(
        json.dumps({"a": "10", "b": "11", "label": 1, "split": "other"})
    )
    (found,) = open_sources([str(raw)], own, tmp_path / "run")
    table = ValueVocabulary.merge([found.values])
    said = r"raw\): nothing .* needs labelled pairs .* \(set aside when it was built: 1 pair_split_"
    with pytest.raises(UserError, match=said):
        task_dataset(Task(name="alignment"), found, "test", table)


def test_a_folder_of_neither_kind_is_told(own, tmp_path):
    for path, said in (
        (
            tmp_path / "nothing",
            "nothing holds neither products.jsonl nor shards: .* does not exist",
        ),
        (tmp_path, "holds neither products.jsonl nor shards: .* holds"),
        (own.folder / "build.json", "is a file: name the folder"),
    ):
        with pytest.raises(UserError, match=said):
            open_sources([str(path)], own, tmp_path / "run")
