"""Second views: what they show, that the model makes of them what it would alone, and the loss."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from k3m_jax.data.input.batch import BatchLayout, ExampleBuilder
from k3m_jax.data.input.pipeline import HostRows, train_batches
from k3m_jax.data.input.siblings import Siblings
from k3m_jax.data.records import ItemView
from k3m_jax.evaluation.evaluator import constant_outputs
from k3m_jax.model.network import Network
from k3m_jax.model.second_view import taken
from k3m_jax.objectives.second_view import NONE, SecondView, product_key, view_array
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Mesh, Objectives
from k3m_jax.settings import SecondView as Options
from k3m_jax.training.trainer import Trainer
from tests.products import (
    NO_PICTURE,
    having,
    inputs,
    memory_shards,
    products,
    settings_for,
    tokenizer,
)
from tests.tiny import TINY, baseline

NAMES = ("title", "image", "knowledge")
GROUP = 4


def with_views(settings=TINY, **options):
    """The same settings with second views."""
    goals = dataclasses.replace(settings.objectives, extra=("view",), view=Options(**options))
    return dataclasses.replace(settings, objectives=goals)


@pytest.fixture(scope="module")
def given():
    return inputs(memory_shards(products(40)))


@pytest.fixture(scope="module")
def resolved(given):
    goals = Objectives(group=GROUP, extra=("view",), lpm=TINY.objectives.lpm)
    return settings_for(given, objectives=goals)


def collated(settings, records, seed=0, **options):
    """A batch of records in groups, nothing else hidden; None is a row of padding."""
    objective = dataclasses.replace(SecondView.from_settings(settings), options=Options(**options))
    layout = BatchLayout((*objective.modalities,), (objective,), GROUP)
    build, rng = ExampleBuilder(layout, tokenizer()), np.random.default_rng(0)
    examples = [r and build(ItemView.of(r), rng) for r in records]
    return layout.collate(examples, range(len(records) // GROUP), seed)


def rows_of(batch):
    """Row by row, the rows of the group that the second view takes its modalities from."""
    return list(zip(*(batch[view_array(name)].tolist() for name in NAMES), strict=True))


def test_a_view_is_a_proper_part_of_its_item(resolved):
    records = products(400)
    batch = collated(resolved, records, wrong=0.0)
    seen = set()
    for index, rows in enumerate(rows_of(batch)):
        assert set(rows) == {NONE, index % GROUP}
        seen.add(tuple(row != NONE for row in rows))
    assert seen == set(itertools.product((False, True), repeat=3)) - {(False,) * 3, (True,) * 3}
    assert batch["view_weights"].all()


def test_a_wrong_view_has_the_title_or_picture_of_another_product(resolved):
    records = products(400)
    batch = collated(resolved, records, wrong=1.0)
    kinds = set()
    for index, rows in enumerate(rows_of(batch)):
        own = index % GROUP
        wrong = tuple(name for name, row in zip(NAMES, rows, strict=True) if row != own)
        kinds.add(wrong)
        others = {row for row in rows if row != own}
        assert len(others) == 1
        other = records[index - own + others.pop()]
        assert other.product != records[index].product
    assert kinds == {("title",), ("image",), ("title", "image")}


def test_an_item_of_one_modality_and_padding_have_no_view(resolved):
    record = products(1)[0]
    bare = having(record, image=NO_PICTURE, knowledge=())
    batch = collated(resolved, [bare, None, record, None])
    assert batch["view_weights"].tolist() == [0, 0, 1, 0]
    assert rows_of(batch)[0] == (NONE, NONE, NONE)


def test_what_another_item_lacks_is_not_taken_from_it(resolved):
    records = [having(r, image=NO_PICTURE) if i % 4 else r for i, r in enumerate(products(80))]
    batch = collated(resolved, records, wrong=1.0)
    for index, (_, image, _) in enumerate(rows_of(batch)):
        assert image in ((0, NONE) if index % 4 == 0 else (NONE,))


def test_views_follow_from_the_seed_and_the_group_alone(resolved):
    records = products(16)
    whole, other = collated(resolved, records), collated(resolved, records, seed=1)
    assert rows_of(whole) == rows_of(collated(resolved, records))
    assert rows_of(whole) != rows_of(other)


def test_a_group_s_rows_are_taken_and_nothing_is_0():
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(8, 3, 2)), rng.integers(-1, 4, 8)
    expected = np.zeros_like(x)
    for i, row in enumerate(rows):
        if row >= 0:
            expected[i] = x[i // 4 * 4 + row]
    batch = {view_array("title"): rows}
    np.testing.assert_array_equal(
        jax.jit(taken, static_argnums=(2, 3))(x, batch, "title", 4), expected.astype(np.float32)
    )


def pretraining_batch(settings, given, rows):
    """The first batch of a run, with these second views."""
    batches = train_batches(settings, given)
    batch = dict(next(batches))
    batches.close()
    for name, row in zip(NAMES, rows, strict=True):
        if view_array(name) in batch:
            batch[view_array(name)][:] = row
    return batch


@pytest.mark.parametrize("preset", ["paper", pytest.param("vilbert", marks=pytest.mark.slow)])
def test_the_second_embedding_is_that_of_the_item_as_the_view_shows_it(given, preset):
    base = TINY if preset == "paper" else baseline(preset)
    goals = Objectives(group=GROUP, extra=("view",), lpm=TINY.objectives.lpm)
    settings = settings_for(given, objectives=goals, model=base.model)
    own = np.arange(settings.training.batch) % GROUP
    network = Network(settings)
    params = network.init_params(jax.random.key(0))
    apply, embed = jax.jit(network.apply), jax.jit(network.embed)
    for shown in ((True, True, True), (True, False, False), (False, True, True)):
        batch = pretraining_batch(settings, given, [own if s else NONE for s in shown])
        alone = dict(batch)
        for name, is_shown in zip(NAMES, shown, strict=True):
            for kind in BatchLayout.of(settings).modalities:
                if kind.name == name and not is_shown:
                    alone |= {key: np.zeros_like(batch[key]) for key in kind.arrays}
        found, expected = apply(params, batch).second_embedding, embed(params, alone)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_loss_is_that_of_a_literal_loop(resolved):
    rng = np.random.default_rng(0)
    B, D = 12, 5
    first, second = rng.normal(size=(2, B, D))
    weights = (np.arange(B) != 3).astype(np.float32)
    products_of = np.array([product_key(str(i // 2)) for i in range(B)], np.int32)
    options = Options(temperature=0.3, same_product=0.25)
    outputs = type("Outputs", (), {})
    outputs.product = type("Product", (), {"embedding": np.float32(first)})
    outputs.second_embedding = np.float32(second)
    batch = {"view_weights": weights, "view_product": products_of}
    objective = dataclasses.replace(SecondView.from_settings(resolved), options=options)
    sums = objective.sums(outputs, batch, None)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    total, right, valid = 0.0, 0, [i for i in range(B) if weights[i]]
    for i in valid:
        pulls = {j: 1.0 if j == i else 0.25 for j in valid if j // 2 == i // 2}
        for a, b in ((first, second), (second, first)):
            scores = {j: cosine(a[i], b[j]) / 0.3 for j in valid}
            whole = np.log(sum(np.exp(s) for s in scores.values()))
            for j, pull in pulls.items():
                total += pull / sum(pulls.values()) * (whole - scores[j]) / 2
        scores = {j: cosine(first[i], second[j]) for j in valid if j == i or j // 2 != i // 2}
        right += max(scores, key=scores.get) == i
    np.testing.assert_allclose(sums["view"].total, total, rtol=1e-5)
    assert sums["view"].weight == sums["view_accuracy"].weight == len(valid)
    assert sums["view_accuracy"].total == right


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 4, 1), (8, 1, 1)])
def test_negatives_are_global_over_the_mesh(given, resolved, mesh):
    metrics = []
    for shape in ((1, 1, 1), mesh):
        trainer = Trainer(Network(resolved), make_mesh(Mesh(*shape)))
        state, batches = trainer.init(), train_batches(resolved, given)
        for _ in range(2):
            state, found = trainer.step(state, trainer.place(next(batches)))
        batches.close()
        metrics.append(jax.device_get(found))
    for name, value in metrics[0].items():
        np.testing.assert_allclose(metrics[1][name], value, rtol=1e-4, atol=2e-5, err_msg=name)
    assert metrics[0]["view_loss"] > 0


def test_embeddings_that_do_not_differ_find_nothing_at_the_loss_of_a_guess(resolved):
    B = resolved.training.batch
    batch = {"view_weights": np.ones(B, np.float32), "view_product": np.arange(B)}
    objective = SecondView.from_settings(resolved)
    outputs = constant_outputs([objective], {"view": 0.0}, batch)
    sums = objective.sums(outputs, batch, None)
    np.testing.assert_allclose(sums["view"].total / B, np.log(B), rtol=1e-5)
    assert sums["view_accuracy"].total == 0


def test_a_batch_of_items_without_views_costs_nothing(resolved, given):
    batch = pretraining_batch(resolved, given, [NONE] * 3)
    batch["view_weights"][:] = 0
    network = Network(resolved)
    params = network.init_params(jax.random.key(0))
    objective = SecondView.from_settings(resolved)

    def loss(params):
        return objective.sums(network.apply(params, batch), batch, None)["view"].total

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0
    assert all(np.isfinite(g).all() and not g.any() for g in jax.tree.leaves(gradient))


def test_siblings_follow_each_other_for_any_hosts(given, resolved):
    data = dataclasses.replace(resolved.data, siblings=True)
    settings = dataclasses.replace(resolved, data=data)
    batches = train_batches(settings, given)
    whole = [dict(next(batches)) for _ in range(3)]
    batches.close()
    keys = np.concatenate([batch["view_product"] for batch in whole]).reshape(-1, 2)
    assert (keys[:, 0] == keys[:, 1]).all()  # each product here has two items
    parts = [train_batches(settings, given, start_step=1, rows=HostRows((i,), 2)) for i in (0, 1)]
    for batch in whole[1:]:
        halves = [next(part) for part in parts]
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), array)
    for part in parts:
        part.close()


def test_a_sibling_is_any_other_item_of_the_product_or_else_any_item():
    rng, siblings = np.random.default_rng(0), Siblings(np.array([7, 3, 7, 9, 7, 3]))
    drawn = {i: {siblings.draw(i, rng) for _ in range(200)} for i in range(6)}
    assert drawn == {0: {2, 4}, 2: {0, 4}, 4: {0, 2}, 1: {5}, 5: {1}, 3: set(range(6))}


def test_a_view_is_told_in_words(resolved):
    objective = SecondView.from_settings(resolved)
    row = {view_array(name): np.array(r) for name, r in zip(NAMES, (2, NONE, 0), strict=True)}
    assert objective.describe(row, None, "abcd") == "title of c, knowledge of a"
    assert objective.describe(dict.fromkeys(row, np.array(NONE)), None, "abcd") == "nothing"


def test_of_a_title_with_its_triples_behind_it_each_is_taken_by_itself(given):
    base = baseline("vilbert", knowledge_text=True)
    goals = Objectives(group=GROUP, extra=("view",))
    settings = settings_for(given, objectives=goals, model=base.model)
    (title, _), encode = SecondView.from_settings(settings).modalities, tokenizer()
    bare = having(products(1)[0], image=NO_PICTURE)
    records = [*products(200), bare, having(bare, title=""), having(bare, knowledge=()), None]
    batch = collated(settings, records, wrong=0.5)
    kinds = set()
    names = [view_array(name) for name in ("title", "image", "knowledge")]
    for index, (t, image, k) in enumerate(zip(*(batch[n].tolist() for n in names), strict=True)):
        own, start = index % GROUP, index // GROUP * GROUP
        kinds.add(tuple(-1 if r == NONE else int(r == own) for r in (t, image, k)))
        contents = {
            "title": records[start + t].title if t != NONE else "",
            "knowledge": records[start + k].triples if k != NONE else (),
        }
        expected = title.encode(contents, encode, {})
        length = len(expected.tokens)
        assert batch["view_title_tokens"][index, :length].tolist() == expected.tokens.tolist()
        assert batch["view_title_mask"][index].sum() == length
        assert batch["view_title_content"][index].sum() == expected.content.sum()
    assert {(0, 1, 1), (1, 0, 1), (0, 0, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)} <= kinds
    assert batch["view_weights"][-4:].tolist() == [1, 0, 0, 0]
