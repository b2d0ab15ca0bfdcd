"""What an exported model answers equals, item by item, what an evaluation of the run counts."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from jax import export as jax_export
from safetensors.numpy import load_file

from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.store.pairs import Pair
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.model.network import nested
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs.task_evaluation import CLEAN, MODEL, THRESHOLD, TaskEvaluation
from k3m_jax.serving import answers, from_pretrained, predict
from k3m_jax.serving.answers import ExportedHead
from k3m_jax.serving.dump import job_of
from k3m_jax.serving.export import write
from k3m_jax.settings import Mesh, Settings, Task, UserError
from k3m_jax.training.task_network import TaskNetwork
from tests import products as made
from tests.exported import tiny_model, tiny_params
from tests.test_tasks import shards_of

TASKS = {
    "classification": Task(
        name="classification",
        label="colour",
        hidden_words=("velti",),
        hide_classes=True,
        shown_properties=("brand",),
    ),
    "alignment": Task(name="alignment", first_shown=("title",), second_shown=("image", "title")),
    "questions": Task(name="questions", questions=0, hidden_properties=("brand",)),
}


@pytest.fixture(scope="module")
def given():
    items = {"train": made.products(40), "valid": made.products(24, first=100)}
    pairs = [
        Pair(split, a.id, b.id, int(a.product == b.product), "", "", "")
        for split, found in items.items()
        for a, b in itertools.pairwise(found)
    ]
    return made.inputs(shards_of(items["train"], items["valid"], pairs))


@pytest.fixture(scope="module")
def opened(given, tmp_path_factory):
    """By task: a fine-tuned model as it was exported, and its evaluation."""

    @functools.cache
    def of(name):
        settings = given.resolve(_settings(TASKS[name]))
        network = TaskNetwork(settings)
        backbone = tiny_params(network.backbone)
        head = nested({k: _drawn(k, x) for k, x in network.head.abstract_params().items()})
        embedder = Embedder(network.backbone, make_mesh(Mesh(data=1)), given.tokenizer, backbone)
        evaluation = TaskEvaluation(settings, given, embedder, 7, "valid", head=head)
        threshold = evaluation.report(CLEAN).notes.get(THRESHOLD)
        folder = tmp_path_factory.mktemp(name) / "model"
        facts = {"platforms": ("cpu",) if name == "alignment" else (), "origin": {"step": 7}}
        write(
            folder,
            network.backbone,
            backbone,
            given.tokenizer,
            **facts,
            card="",
            head=ExportedHead(settings.task, head, threshold),
            values=given.vocabulary,
        )
        return from_pretrained(folder), evaluation, folder

    return of


def _settings(task: Task) -> Settings:
    tiny = tiny_model().settings
    objectives = dataclasses.replace(
        tiny.objectives,
        mlm=dataclasses.replace(tiny.objectives.mlm, rate=0.0),
        mom=dataclasses.replace(tiny.objectives.mom, rate=0.0),
    )
    image = dataclasses.replace(tiny.image, classes=0)
    model = dataclasses.replace(tiny.model, vocabulary=0)
    changes = {"task": task, "objectives": objectives, "image": image, "model": model}
    return dataclasses.replace(tiny, **changes)


def _drawn(name, leaf):
    if leaf.shape == (2, 32, 1):  # of |a - b| and a * b: near items are alike
        return np.stack([np.full((32, 1), -0.3), np.zeros((32, 1))]).astype(np.float32)
    return np.random.default_rng(len(name)).normal(0, 0.3, leaf.shape).astype(np.float32)


def scores_of(evaluation):
    split = evaluation.measured
    return split, evaluation._scores(split, evaluation._embeddings(CLEAN), CLEAN)[MODEL]


def valid(given):
    (shards,) = given.shard_sets
    return list(shards.source("valid"))


def test_classes_are_those_that_the_evaluation_counts(given, opened):
    model, evaluation, _ = opened("classification")
    split, scores = scores_of(evaluation)
    records = valid(given)
    predicted = model.classify((records[row.item] for (row,) in split.examples), k=2)
    classes = model.head.task.classes
    both = zip(predicted, split.labels, strict=True)
    right = [found[0][0] == classes[label] for found, label in both]
    assert right == (scores.argmax(1) == split.labels).tolist()
    assert 0 < sum(right) < len(right)
    exp = np.exp(scores - scores.max(1, keepdims=True))
    best = (exp / exp.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose([found[0][1] for found in predicted], best, rtol=1e-4)
    assert all(first[1] >= second[1] for first, second in predicted)


def test_pairs_are_those_that_the_evaluation_counts(given, opened):
    model, evaluation, folder = opened("alignment")
    split, scores = scores_of(evaluation)
    records = {record.id: record for record in valid(given)}
    pairs = [(records[a.id], records[b.id]) for a, b in split.examples]
    probabilities = model.same_product(pairs)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-scores)), rtol=1e-4)
    threshold = evaluation._thresholds[MODEL]
    assert model.head.threshold == pytest.approx(threshold)
    limit = 1 / (1 + np.exp(-threshold))
    clear = np.abs(scores - threshold) > 1e-4  # a threshold may be a score itself
    assert clear.sum() >= len(scores) - 2
    assert ((probabilities >= limit) == (scores >= threshold))[clear].all()

    # The folder alone: the head's artefact, with the weights of both files.
    weights = load_file(folder / "model.safetensors")
    head = load_file(folder / "head.safetensors")
    weights |= {f"task_head/{name}": x for name, x in head.items()}
    data = (folder / "same_product.jax_export").read_bytes()
    call = jax_export.deserialize(bytearray(data)).call
    task, columns = (
        model.head.task,
        dict(zip(("first", "second"), zip(*pairs, strict=True), strict=True)),
    )
    sides = (
        [answers.as_shown(task, r, (), side) for r in found] for side, found in columns.items()
    )
    logits = call(weights, *map(model.embed, sides))
    np.testing.assert_allclose(logits, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_energy", [False, True])
def test_values_are_those_that_the_evaluation_counts(given, opened, by_energy):
    model, evaluation, folder = opened("questions")
    split, scores = scores_of(evaluation)
    if by_energy:  # the same model without its head
        statistics = evaluation.scorer.zero_shot_statistics
        c = evaluation._embeddings(CLEAN)
        model = from_pretrained(folder)
        model.head = None
        model.completion._task = TASKS["questions"]  # which hides a property, too
        found = statistics(split, c, model.network.settings.objectives.lpm.norm)
        counted = [found[f"energy completion_hits@{k}"].args[0] for k in (1, 5)]
    else:
        found = evaluation.scorer.statistics(split, scores, 0.0)
        counted = [found[f"completion_hits@{k}"].args[0] for k in (1, 5)]
    records, pairs = valid(given), given.vocabulary.pairs
    for number, (row,) in enumerate(split.examples):
        true = {pairs[i][1] for i in row.known}
        for k, hits in zip((1, 5), counted, strict=True):
            values = [
                value for value, _ in model.complete(records[row.item], row.query_property, k)
            ]
            assert hits[number] == pytest.approx(len(true & set(values)) / min(k, len(true)))


def test_all_properties_at_once_are_as_each_by_itself(given, opened):
    model, *_ = opened("questions")
    records = valid(given)[:5]
    properties = ["colour", "fibre", "brand"]
    found = list(model.completion(records, properties, 3))
    assert len(found) == 15
    for record, name, scored in found:
        expected = model.complete(record, name, 3)
        assert [value for value, _ in scored] == [value for value, _ in expected]
        np.testing.assert_allclose([x for _, x in scored], [x for _, x in expected], rtol=1e-4)
    bare = made.having(records[0], knowledge=(("Colour", "red"),))
    lacking = model.completion([bare, records[1]], properties, 3, missing=True)
    assert [(record.id, name) for record, name, _ in lacking] == [
        (bare.id, "fibre"),
        (bare.id, "brand"),
    ]


def test_what_cannot_be_answered_is_said(given, opened, tmp_path):
    model, _, folder = opened("classification")
    with pytest.raises(UserError, match="head of the task alignment"):
        model.same_product([])
    with pytest.raises(UserError, match="no value of 'size' is known; there are brand"):
        model.complete(valid(given)[0], "size")
    (folder / "values.json").rename(tmp_path / "values.json")
    with pytest.raises(UserError, match=r"values\.json"):
        from_pretrained(folder).complete(valid(given)[0], "colour")
    table = json.loads((tmp_path / "values.json").read_text())
    assert sum(map(len, table.values())) == len(given.vocabulary)
    (tmp_path / "values.json").rename(folder / "values.json")


def test_pairs_of_a_dump(given, opened, tmp_path):
    model, *_ = opened("alignment")
    pictures = {name: made.jpeg(number, 20) for number, name in enumerate("abcd")}
    for name, data in pictures.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    lines = [{"id": name, "title": f"{name} thing", "images": [f"{name}.jpg"]} for name in "abc"]
    lines += [{"id": "a", "title": "again"}, {"title": "no id"}]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    wanted = [
        {"a": "a", "b": "b", "a_image": "a.jpg"},
        {"a": "b", "b": "a"},
        {"a": "a", "b": "nobody"},
        {"a": "c", "b": "c", "b_image": "d.jpg", "label": 1},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, wanted)))
    catalog, output = open_catalog("jsonl", tmp_path), epath.Path(tmp_path / "out")
    job = job_of(model, catalog, output, {}, rows=2)
    pairs = predict.read_candidates(tmp_path / "pairs.jsonl")
    predict.predict_pairs(job, model, pairs)
    written = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [(row["a"], row["b"]) for row in written] == [("a", "b"), ("b", "a"), ("c", "c")]

    def item(name, picture):
        return model.record(name, title=f"{name} thing", picture=pictures[picture])

    a, b, c = (item(name, name) for name in "abc")
    expected = model.same_product([(a, b), (b, a), (c, item("c", "d"))])
    np.testing.assert_allclose([row["probability"] for row in written], expected, rtol=1e-4)
    limit = 1 / (1 + np.exp(-model.head.threshold))
    assert [row["same"] for row in written] == (expected >= limit).tolist()
    (reject,) = (tmp_path / "out" / "_pairs.rejects.jsonl").open()
    assert json.loads(reject)["b"] == "nobody"
    for wrong in ("[]", "{", '{"a": 1, "b": "c"}', '{"a": "b"}'):
        (tmp_path / "pairs.jsonl").write_text(f"\n{wrong}\n")
        with pytest.raises(UserError, match=r"--pairs: .* line 2"):
            predict.read_candidates(tmp_path / "pairs.jsonl")
