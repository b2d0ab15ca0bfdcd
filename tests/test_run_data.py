"""The products that a run was trained on, and those that it is measured on."""

import json

import pytest

from configs import quickstart
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.report import ExternalDataInfo
from k3m_jax.runs.measure import elsewhere, measure_run, open_source, relocate_data
from k3m_jax.settings import Corruption, Settings, Task, UserError
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.tasks.alignment import Alignment
from k3m_jax.tasks.base import TaskSplit
from k3m_jax.training.checkpoints import Meta
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
    assert open_source(str(own.folder), own, tmp_path / "run").folder == own.folder
    found = open_source(raw, own, tmp_path / "run")
    assert found.info.products == {"test_unseen": 3}
    assert found.info.pairs == {"test_unseen": 1}
    assert found.info.patch_size == own.info.patch_size
    built = (found.folder / "build.json").stat().mtime
    again = open_source(raw, own, tmp_path / "run")
    assert (again.folder / "build.json").stat().mtime == built
    picture = tmp_path / "raw" / "10.jpg"
    picture.write_bytes(bytes(len(picture.read_bytes())))
    other = open_source(raw, own, tmp_path / "run")
    assert other.folder != found.folder


def test_of_two_processes_that_build_one_folder_the_second_opens_what_the_first_has(
    own, tmp_path, monkeypatch
):
    def overtaken(arguments, **how):
        build(arguments, **how)
        raise FileExistsError(arguments.folder)

    monkeypatch.setattr("k3m_jax.runs.measure.build", overtaken)
    raw = write(tmp_path / "raw", "test", range(10, 13))
    found = open_source(raw, own, tmp_path / "run")
    assert found.info.products == {"test": 3}


def test_external_data_are_described_by_what_they_lack(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 14))
    (raw / "11.jpg").unlink()
    with (raw / "products.jsonl").open("a") as file:
        file.write("\n{")
    found = open_source(str(raw), own, tmp_path / "run")
    info = ExternalDataInfo.of([str(raw)], [found])
    assert (info.items, info.repaired) == (4, {"picture_not_found": 1})
    assert info.missing == {"image": 1, "title": 4, "knowledge": 4}
    assert info.rejects == {"not_json": 1}
    both = ExternalDataInfo.of([str(raw), "own"], [found, own])
    assert (both.items, both.missing["title"], both.rejects) == (8, 8, {"not_json": 1})


def test_other_pairs_of_the_same_items_are_other_products_to_measure_on(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 13))
    before = ExternalDataInfo.of(["raw"], [open_source(str(raw), own, tmp_path / "run")])
    (raw / "align_pairs.jsonl").write_text(json.dumps({"a": "10", "b": "12", "label": 0}))
    found = open_source(str(raw), own, tmp_path / "run")
    assert before.digest != ExternalDataInfo.of(["raw"], [found]).digest


def test_a_folder_without_examples_says_why(own, tmp_path):
    raw = tmp_path / "raw"
    write(raw, "test", range(10, 13))
    (raw / "align_pairs.jsonl").write_text(
        json.dumps({"a": "10", "b": "11", "label": 1, "split": "other"})
    )
    found = open_source(str(raw), own, tmp_path / "run")
    vocabulary = ValueVocabulary.merge([found.values])
    said = r"raw\): nothing .* needs labelled pairs .* \(rejected when it was built: 1 pair_split_"
    with pytest.raises(UserError, match=said):
        TaskSplit(Alignment, Task(name="alignment"), [found], "test", vocabulary)


def test_a_folder_of_neither_kind_is_refused(own, tmp_path):
    for path, said in (
        (
            tmp_path / "nothing",
            "nothing holds neither products.jsonl nor shards: .* does not exist",
        ),
        (tmp_path, "holds neither products.jsonl nor shards: .* holds"),
        (own.folder / "build.json", "is a file: name the folder"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(str(path), own, tmp_path / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the shards of two catalogues, `first` and `second`."""
    folder = tmp_path_factory.mktemp("measuring")
    for seed, name in enumerate(("first", "second")):
        make_catalogue(folder / f"of-{name}", products=20, seed=seed, overlap=0.5, image_size=32)
        sizes = {"image_size": 32, "patch_size": 16, "codebook_size": 4, "vocabulary_size": 200}
        build(BuildArguments("jsonl", str(folder / f"of-{name}"), str(folder / name), **sizes))
    return folder


def a_run(folder, *names):
    """Settings and meta of one that was trained on some of the data sets."""
    config = quickstart.get_config("debug")
    config.data.sources = tuple(str(folder / name) for name in names)
    settings = Settings.from_config(config)
    inputs = open_inputs(settings.data)
    data = [shards.info.fingerprint for shards in inputs.shard_sets]
    return settings, Meta.of(settings, data, inputs.tokenizer.fingerprint)


def measure(settings, meta, workdir, sources):
    how = {"split": "valid", "corruptions": [Corruption()], "sources": sources}
    return list(measure_run(settings, meta, workdir, "best", **how))


def test_data_that_have_moved_are_named(folder, tmp_path):
    settings, meta = a_run(folder, "first", "second")
    now = [str(tmp_path / name) for name in ("first", "second")]
    for name in ("first", "second"):
        (tmp_path / name).symlink_to(folder / name)
    data = relocate_data(settings.data, meta, now, now[0])
    assert (data.sources, data.tokenizer) == (tuple(now), now[0])
    assert relocate_data(settings.data, meta, (), "") == settings.data


@pytest.mark.parametrize("now", [["second"], ["second", "first"], ["first"]])
def test_other_data_than_the_run_was_trained_on_are_refused(folder, now):
    settings, meta = a_run(folder, "first", "second")
    with pytest.raises(UserError, match=r"--trained_on=.*: the run was trained on other data sets"):
        relocate_data(settings.data, meta, [str(folder / name) for name in now], "")


@pytest.mark.parametrize("sources", [(), ("second",)])
def test_missing_data_are_reported_with_what_to_do(folder, tmp_path, sources):
    """Whatever the run is to be measured on."""
    settings, meta = a_run(folder, "first")
    (folder / "first").rename(tmp_path / "first")
    try:
        with pytest.raises(UserError, match=r"first: it does not exist \(seen from .*--trained_on"):
            measure(settings, meta, tmp_path, [str(folder / name) for name in sources])
    finally:
        (tmp_path / "first").rename(folder / "first")


def test_without_a_training_split_baselines_are_counted_over_the_runs_own():
    own = made.inputs(made.memory_shards(made.products(8)))
    both = made.memory_shards(made.products(6, first=20), made.products(4, first=30))
    alone = made.memory_shards([], made.products(4, first=40))
    measured, training = elsewhere(own, [both], "train")
    assert measured is training
    assert measured.shard_sets == [both]
    measured, training = elsewhere(own, [alone], "train")
    assert measured.shard_sets == [alone]
    assert training.shard_sets == own.shard_sets
    # Frequencies are those of training; the values of the others can be ranked too.
    assert measured.vocabulary is training.vocabulary
    pairs = dict(zip(training.vocabulary.pairs, training.vocabulary.counts, strict=True))
    before = dict(zip(own.vocabulary.pairs, own.vocabulary.counts, strict=True))
    assert {pair for item in alone.source("valid") for pair in item.triples} <= set(pairs)
    assert {pair: pairs[pair] for pair in before} == before
