"""Probes from end to end: a missing modality costs its information, and nothing else."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from k3m_jax.data.store.pairs import Pair
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.modalities.picture import Picture
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs import task_evaluation
from k3m_jax.runs.task_evaluation import TaskEvaluation
from k3m_jax.settings import Corruption, Mesh, Task, UserError
from k3m_jax.tasks.classification import Classification
from k3m_jax.training.task_network import Head
from tests import products as made
from tests.test_tasks import shards_of

pytestmark = pytest.mark.slow
SPLITS = {"train": 96, "valid": 32, "test": 64}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """What there is to learn takes few."""
    monkeypatch.setattr(task_evaluation, "STEPS", 200)


def item(number):
    """The title has the colour; all pictures are the same, and no other triple has a colour."""
    colour = number % 4
    name = made.COLOURS[colour]
    triples = [("brand", made.BRANDS[number // 4 % 3]), ("colour", name)]
    picture = Picture(made.jpeg(0), np.zeros(4, np.int32))
    made_item = made.record(number, triples, title=f"{name} thing", picture=picture)
    return dataclasses.replace(made_item, category=name)


@pytest.fixture(scope="module")
def parts():
    """A model as it is drawn: what it reads is in its embeddings already."""
    first = np.cumsum([0, *SPLITS.values()])
    items = {
        split: [item(int(i)) for i in range(start, start + count)]
        for (split, count), start in zip(SPLITS.items(), first[:-1], strict=True)
    }
    pairs = []
    for split, found in items.items():
        for a, b in zip(found[::2], found[4::2], strict=False):  # of one colour
            pairs.append(Pair(split, a.id, b.id, 1, "", "", ""))
        for a, b in zip(found[::2], found[1::2], strict=True):  # of two
            pairs.append(Pair(split, a.id, b.id, 0, "", "", ""))
    shards = shards_of(items["train"], items["valid"], pairs)
    shards.splits["test"] = items["test"]
    shards.info.products["test"] = SPLITS["test"]
    given = made.inputs(shards)
    settings = made.settings_for(given)
    network, mesh = Network(settings), make_mesh(Mesh(data=1))
    params = network.init_params(jax.random.key(0))
    return settings, given, Embedder(network, mesh, given.tokenizer, params)


def measured(parts, *corruptions, **task):
    settings, given, embedder = parts
    settings = dataclasses.replace(settings, task=Task(**task))
    corrupt = [Corruption.parse(text) if text else Corruption() for text in corruptions]
    return list(map(TaskEvaluation(settings, given, embedder, 7, "test").report, corrupt))


def values(report):
    return {row.metric: row.model.value for row in report.rows}


def test_classification(parts):
    clean, without, wrong, pictures = measured(
        parts,
        "",
        "TMR100",
        "TNR100",
        "INR100",
        name="classification",
        hidden_properties=("colour",),
    )
    assert values(clean)["accuracy"] > 0.95
    assert values(without)["accuracy"] < 0.5  # the title carried all of it …
    assert values(wrong)["accuracy"] < 0.5
    # … the pictures, all alike, nothing
    assert pictures.rows[0].model.value == clean.rows[0].model.value
    baselines = clean.rows[0].baselines
    expected = {"majority": 0.25, "title naive Bayes": 1.0, "nearest picture": 0.25}
    assert {name: score.value for name, score in baselines.items()} == expected
    low, high = baselines["majority"].interval
    assert low < 0.25 < high
    assert without.rows[0].baselines["title naive Bayes"].value == 0.25
    low, high = without.rows[0].model.interval
    assert low <= without.rows[0].model.value <= high


def test_a_hidden_title_is_missing_everywhere(parts):
    task = {
        "name": "classification",
        "hidden_properties": ("colour",),
        "shown": ("image", "knowledge"),
    }
    clean, without = measured(parts, "", "TMR100", **task)
    assert values(clean) == values(without)
    assert values(clean)["accuracy"] < 0.5


def test_alignment(parts):
    sides = {"first_shown": ("title",), "second_shown": ("title",)}
    clean, without = measured(parts, "", "TMR100", name="alignment", **sides)
    assert values(clean)["auc"] > 0.95
    assert values(clean)["f1"] > 0.9
    assert values(without)["auc"] == 0.5
    assert clean.rows[1].baselines["title naive Bayes"].value == 1.0


def test_questions(parts):
    clean, without, pictures = measured(
        parts, "", "TMR100", "INR100", name="questions", questions=0
    )
    assert clean.notes["examples"] == 2 * SPLITS["test"]  # colour and brand
    assert values(clean)["rank@1"] > values(without)["rank@1"] + 0.2
    assert values(clean) == values(pictures)
    assert "energy mrr" in values(clean)


def test_pictures_elsewhere_are_like_the_runs(parts):
    settings, given, embedder = parts
    settings = dataclasses.replace(settings, task=Task(name="classification"))
    elsewhere = shards_of([item(0)], [item(1)])
    elsewhere.info = dataclasses.replace(elsewhere.info, regions=16)
    with pytest.raises(UserError, match=r"image\.regions is 4, but memory was built with 16"):
        TaskEvaluation(settings, given, embedder, 7, "valid", held_out=[elsewhere])


def test_there_is_no_energy_of_links_that_were_not_learned(parts, monkeypatch):
    monkeypatch.setattr(task_evaluation, "STEPS", 1)
    settings, *rest = parts
    lpm = dataclasses.replace(settings.objectives.lpm, weight=0.0)
    objectives = dataclasses.replace(settings.objectives, lpm=lpm)
    (report,) = measured(
        (dataclasses.replace(settings, objectives=objectives), *rest), "", name="questions"
    )
    assert "mrr" in values(report)
    assert not any("energy" in name for name in values(report))


@pytest.mark.parametrize("wrong", ["embeddings", "labels"])
def test_a_head_that_can_learn_nothing_is_refused(wrong):
    head = Head(Task(name="classification", classes=("a", "b")), width=2)
    scorer = Classification(head)
    c = np.full((4, 2), np.nan if wrong == "embeddings" else 1.0, np.float32)
    inputs = {"c": c, "label": np.full(4, -1 if wrong == "labels" else 1)}
    with pytest.raises(UserError, match="no head has a finite loss"):
        task_evaluation.fit(scorer, inputs, inputs, seed=0)


def test_reports_are_written(parts, tmp_path):
    (report,) = measured(parts, "TMR20", name="classification")
    names = report.write(tmp_path)
    assert names == [f"probe-classification-test-TMR20.{kind}" for kind in ("json", "md")]
    read = json.loads((tmp_path / names[0]).read_text())
    assert read["metrics"]["accuracy"]["value"] == report.rows[0].model.value
    assert read["notes"]["products that training has too"] == 0
    assert "| accuracy |" in (tmp_path / names[1]).read_text()
