"""Fine-tuning by the same loop: what its batches hold, what it inherits, that it learns."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax.data.input.pipeline import train_batches
from k3m_jax.data.store.pairs import Pair
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.model.network import flat
from k3m_jax.objectives import target_weights
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs.task_evaluation import TaskEvaluation, TaskEvaluator
from k3m_jax.runs.training_run import with_pretrained_settings
from k3m_jax.settings import Corruption, Mesh, Task, UserError
from k3m_jax.tasks.alignment import AlignmentObjective
from k3m_jax.tasks.questions import QuestionObjective
from k3m_jax.training.task_network import TaskNetwork, network_of, split_params
from k3m_jax.training.trainer import Trainer
from tests import products as made
from tests.test_tasks import shards_of
from tests.tiny import TINY, released

TASKS = ("classification", "alignment", "questions")


def item(number):
    """The title alone has the colour."""
    name = made.COLOURS[number % 4]
    triples = [("brand", made.BRANDS[number // 4 % 3]), ("colour", name)]
    return dataclasses.replace(made.record(number, triples, title=f"{name} thing"), category=name)


@pytest.fixture(scope="module")
def given():
    items = {"train": [item(i) for i in range(48)], "valid": [item(i) for i in range(100, 116)]}
    pairs = [
        Pair(split, a.id, b.id, int(a.category == b.category), "", "", "")
        for split, found in items.items()
        for a, b in (*zip(found, found[4:], strict=False), *itertools.pairwise(found))
    ]
    return made.inputs(shards_of(items["train"], items["valid"], pairs))


def settings_of(given, name, **changes):
    tiny = TINY.objectives
    objectives = dataclasses.replace(
        tiny,
        mlm=dataclasses.replace(tiny.mlm, rate=0.0),
        mom=dataclasses.replace(tiny.mom, rate=0.0),
        lpm=dataclasses.replace(tiny.lpm, negative_values=5),
    )
    sides = {"first_shown": ("title",), "second_shown": ("title",)}
    task = Task(name=name, hidden_properties=("colour",), **sides)
    return made.settings_for(given, **{"objectives": objectives, "task": task, **changes})


def test_a_run_to_start_from_that_is_not_there_is_named(tmp_path):
    missing = dataclasses.replace(TINY, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"init_from: there is no .*nowhere"):
        with_pretrained_settings(missing)


def batches(given, settings, count):
    found = train_batches(settings, given)
    yield from itertools.islice(found, count)
    found.close()


@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_masked_and_every_example_is_labelled(given, name):
    settings = settings_of(given, name)
    for batch in batches(given, settings, 3):
        assert not {"mlm_weights", "mom_weights", "region_hidden"} & batch.keys()
        weights = batch["label_weights"].reshape(-1, 2 if name == "alignment" else 1)
        assert weights[:, 0].all()
        assert not weights[:, 1:].any()


def test_labels_are_those_of_the_rows(given):
    settings = settings_of(given, "classification")
    (batch,) = batches(given, settings, 1)
    for tokens, label in zip(batch["title_tokens"], batch["label"], strict=True):
        assert settings.task.classes[label] in given.tokenizer.decode(tokens)


def test_a_pair_is_two_rows_side_by_side(given):
    (batch,) = batches(given, settings_of(given, "alignment"), 1)
    words = [given.tokenizer.decode(tokens).split() for tokens in batch["title_tokens"]]
    colours = [next(w for w in text if w in made.COLOURS) for text in words]
    same = [a == b for a, b in zip(colours[::2], colours[1::2], strict=True)]
    assert same == (batch["label"][::2] == 1).tolist()


def test_candidates_are_of_the_property_and_of_others_the_true_one_first(given):
    values = {"colour": set(made.COLOURS), "brand": set(made.BRANDS)}
    seen = set()
    for batch in batches(given, settings_of(given, "questions"), 2):
        for row, tokens in enumerate(batch["link_tokens"]):
            texts = [given.tokenizer.decode(x[1:3]).split() for x in tokens]
            usable = [True, *(batch["link_value_weights"][row] > 0)]
            used = list(itertools.compress(texts, usable))
            (name,) = {text[0] for text in used}
            seen.add(name)
            own = [text[1] in values[name] for text in used]
            assert own[0]
            assert 0 < sum(own[1:]) <= 3
            assert not all(own)
            shown = given.tokenizer.decode(batch["knowledge_tokens"][row]).split()
            assert not {name, used[0][1]} & set(shown)
    assert seen == set(values)


def test_a_task_masks_nothing():
    with pytest.raises(UserError, match="masks nothing"):
        dataclasses.replace(TINY, task=Task(name="classification")).validate()


@pytest.mark.parametrize(("task", "release"), [("questions", False), ("alignment", True)])
def test_the_head_is_added_to_the_models_own_parameters(given, task, release):
    settings = settings_of(given, task)
    settings = released(settings) if release else settings
    network = network_of(settings)
    assert isinstance(network, TaskNetwork)
    assert network_of(dataclasses.replace(settings, task=Task())) == network.backbone
    shapes = jax.eval_shape(network.init_params, jax.random.key(0))
    own = jax.eval_shape(network.backbone.init_params, jax.random.key(0))
    model, head = split_params(shapes)
    assert flat(model).keys() == flat(own).keys()
    assert head


def test_a_pair_counts_once():
    logits = jnp.array([2.0, -1.0])
    batch = {"label": jnp.array([1, 0, 1, 0]), "label_weights": jnp.array([1.0, 0, 1, 0])}
    objective = AlignmentObjective.from_settings(TINY)
    sums = objective.sums(logits, batch, None)
    wanted = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert sums["task"].total == pytest.approx(wanted)
    assert tuple(sums["task_accuracy"]) == (1, 2)
    assert target_weights([objective], batch)["task"] == sums["task"].weight


def test_missing_candidates_take_no_part():
    scores = jnp.array([[1.0, 9.0, 0.0], [0.0, 5.0, 5.0]])
    usable = jnp.array([[0.0, 1], [0, 0]])
    loss, right = QuestionObjective.losses(scores, usable, jnp.ones(2))
    assert loss.total == pytest.approx(np.log(1 + np.exp(-1.0)))
    assert (loss.weight, right.total) == (1, 1)
    gradient = jax.grad(lambda x: QuestionObjective.losses(x, usable, jnp.ones(2))[0].total)(scores)
    assert jnp.isfinite(gradient).all()
    assert not gradient[1].any()


@pytest.fixture(scope="module")
def learned(given):
    """By task: its trainer, the parameters after some steps, what was measured before and after."""
    training = dataclasses.replace(TINY.training, steps=60, batch=16)
    optimizer = dataclasses.replace(TINY.optimizer, learning_rate=3e-3)

    @functools.cache
    def of(name):
        settings = settings_of(given, name, training=training, optimizer=optimizer)
        trainer = Trainer(network_of(settings), make_mesh(Mesh(data=1)))
        evaluate = TaskEvaluator(trainer.network, trainer.mesh, given)
        state = trainer.init()
        before = evaluate(state.params)
        for batch in batches(given, settings, training.steps):
            state, _ = trainer.step(state, trainer.place(batch))
        return trainer, state.params, before, evaluate(state.params)

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric"), [("classification", "accuracy"), ("alignment", "auc"), ("questions", "mrr")]
)
def test_learns(learned, name, metric):
    _, _, before, after = learned(name)
    assert after["loss"] < before["loss"]
    assert after[metric] > max(before[metric], 0.6)


@pytest.mark.slow
def test_is_measured_next_to_the_baselines(given, learned, tmp_path):
    trainer, params, _, after = learned("classification")
    corrupt = [Corruption(), Corruption("TMR", 1.0), Corruption("TMR", 0.5)]
    network, (model, head) = trainer.network, split_params(params)
    embedder = Embedder(network.backbone, trainer.mesh, given.tokenizer, model)
    evaluation = TaskEvaluation(network.settings, given, embedder, 60, "valid", head=head)
    clean, without, half = map(evaluation.report, corrupt)
    assert without.rows[0].model.value < half.rows[0].model.value < clean.rows[0].model.value
    assert clean.rows[0].model.value == after["accuracy"]
    assert without.rows[0].model.value < clean.rows[0].model.value - 0.1
    baselines = clean.rows[0].baselines
    assert (baselines["majority"].value, baselines["title naive Bayes"].value) == (0.25, 1.0)
    names = clean.write(tmp_path)
    assert names[0] == "evaluation-classification-valid.json"
    assert json.loads((tmp_path / names[0]).read_text())["checkpoint"] == 60
