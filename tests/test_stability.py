"""Stability: complete and corrupted vectors of held-out items, against a literal loop."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from k3m_jax import modalities
from k3m_jax.evaluation import stability, stability_floors
from k3m_jax.evaluation.evaluator import Evaluator
from k3m_jax.evaluation.stability import Sample, dot, measure, unit
from k3m_jax.evaluation.stability_evaluator import IN_TRAINING
from k3m_jax.evaluation.stability_report import stability_report
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Evaluation, Mesh
from tests.products import NO_PICTURE, having, inputs, memory_shards, products, settings_for

ALL = tuple(modalities.REGISTRY)


def compare(complete, corrupted, items, products):
    return stability.compare(functools.partial(dot, corrupted, complete), items, products)


def literal(complete, corrupted, items, products):
    """Cosine, and the expected share of orders of tied items in which it is found, by counting."""
    found = []
    for vector, own in zip(corrupted, items, strict=True):
        cosines = [float(vector @ other) for other in complete]
        row = {"cosine": cosines[own]}
        others = [i for i in range(len(complete)) if i != own and products[i] == products[own]]
        for k in (1, 10):
            row[f"recall_at_{k}"] = hit(cosines, [own], range(len(complete)), k)
            candidates = [i for i in range(len(complete)) if i != own]
            expected = hit(cosines, others, candidates, k) if others else None
            row[f"product_recall_at_{k}"] = expected
        found.append(row)
    return found


def hit(cosines, wanted, candidates, k, draws=4000):
    rng, count = np.random.default_rng(0), 0
    keys = np.round([cosines[i] for i in candidates], 6)
    if len(set(keys)) == len(keys):
        draws = 1
    wanted = {list(candidates).index(i) for i in wanted}
    for _ in range(draws):
        order = np.lexsort((rng.random(len(keys)), -keys))[:k]
        count += bool(wanted & set(order.tolist()))
    return count / draws


@pytest.mark.parametrize("ties", [False, True])
def test_equals_a_literal_loop(ties):
    rng = np.random.default_rng(0)
    complete = unit(rng.integers(0, 2, (24, 4)) if ties else rng.normal(size=(24, 5)))
    items = np.array([0, 3, 4, 9, 11, 23])
    corrupted = unit(complete[items] + (0 if ties else rng.normal(size=(6, 5))))
    products = np.array([*range(8), *range(8), *range(8)])
    products[23] = 99  # without another item
    found = compare(complete, corrupted, items, products)
    # Of 4,000 drawn orders: 4 standard deviations of a share.
    tolerance = 4 * 0.5 / 4000**0.5 if ties else 1e-9
    for item, row in zip(items, literal(complete, corrupted, items, products), strict=True):
        for name, expected in row.items():
            weight = 0 if expected is None else 1
            assert found[name].weight[item] == weight, name
            assert found[name].total[item] == pytest.approx(expected or 0, abs=tolerance), name
    assert all(metric.weight.sum() == (5 if "prod" in n else 6) for n, metric in found.items())


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    complete, corrupted = unit(rng.normal(size=(40, 6))), unit(rng.normal(size=(40, 6)))
    items, products = np.arange(40), np.arange(40) // 2
    whole = compare(complete, corrupted, items, products)
    monkeypatch.setattr(stability, "BLOCK", 7)
    for name, metric in compare(complete, corrupted, items, products).items():
        np.testing.assert_allclose(metric.total, whole[name].total, atol=1e-12)


def test_one_item_and_equal_vectors_and_vectors_that_are_not_finite():
    one = compare(unit(np.ones((1, 3))), unit(np.ones((1, 3))), np.arange(1), np.zeros(1))
    assert one["recall_at_1"].total == 1
    assert one["product_recall_at_1"].weight == 0
    same = np.ones((20, 3))
    found = compare(unit(same), unit(2 * same), np.arange(20), np.arange(20) // 2)
    assert found["recall_at_1"].total == pytest.approx(1 / 20)  # guessing among all
    assert found["recall_at_10"].total == pytest.approx(10 / 20)
    assert found["product_recall_at_1"].total == pytest.approx(1 / 19)
    broken = np.eye(20)
    broken[3], broken[4] = np.nan, np.inf
    found = compare(unit(broken), unit(broken), np.arange(20), np.arange(20) // 2)
    assert found["recall_at_1"].total[0] == 1
    assert found["recall_at_1"].total[3] == found["recall_at_1"].total[4] == 1 / 20
    assert np.isnan(found["cosine"].total[3])
    zeros = compare(unit(np.zeros((4, 2))), unit(np.zeros((4, 2))), np.arange(4), np.arange(4))
    assert zeros["recall_at_1"].total == pytest.approx(1 / 4)


@pytest.fixture(scope="module")
def given():
    """Ten items of five products, of which some lack modalities."""
    records = products(12, first=100)
    records[1] = having(records[1], title="")
    records[2] = having(records[2], title="", knowledge=())
    records[3] = having(records[3], title="", knowledge=(), image=NO_PICTURE)
    records[4] = having(records[4], image=NO_PICTURE, knowledge=())
    return inputs(memory_shards(products(20), records))


def test_what_changes_nothing_or_leaves_nothing_is_left_out(given):
    sample = Sample(given.shard_sets, "valid", 100, ALL)
    lost = {name: set(range(12)) - set(kept.tolist()) for name, kept in sample.kept.items()}
    assert lost == {
        "TMR": {1, 2, 3, 4},  # 4 has nothing else
        "IMR": {2, 3, 4},  # 2 has nothing else
        "KMR": {2, 3, 4},
        "TOR": {1, 2, 3, 4},
        "IOR": {2, 3, 4},
        "TNR": {1, 2, 3},
        "INR": {3, 4},
        "TINR": {1, 2, 3, 4},
        "MNR": lost["MNR"],
        "KNR": {2, 3, 4},
    }
    assert {3} <= lost["MNR"] <= {1, 2, 3, 4}
    for setting, gone in (("TMR", "title"), ("IOR", "knowledge")):
        views = [view for source in sample.views(setting) for view in source]
        assert len(views) == len(sample.kept[setting])
        assert not any(view.visible[gone] for view in views)
        own = [given.shard_sets[0].source("valid")[i].id for i in sample.kept[setting]]
        assert [view.record.id for view in views] == own


def test_a_model_is_measured_on_what_it_reads(given):
    sample = Sample(given.shard_sets, "valid", 100, ("title", "image"))
    assert not any(len(sample.kept[name]) for name in ("KMR", "KNR"))
    assert 1 not in sample.kept["IMR"]  # its triples are nothing to this model


def test_items_of_one_product_have_no_noise():
    records = [dataclasses.replace(r, product="one") for r in products(6)]
    sample = Sample([memory_shards([], records)], "valid", 100, ALL)
    assert len(sample.kept["TMR"]) == 6
    assert not len(sample.kept["TNR"])


def test_the_sample_is_the_first_of_each_data_set():
    sets = memory_shards([], products(30)), memory_shards([], products(10, first=50))
    sample = Sample(sets, "valid", 8, ALL)
    views = [view.record.id for source in sample.views() for view in source]
    assert views == [f"id{n}" for n in (0, 1, 2, 3, 4, 5, 50, 51)]
    assert len(Sample(sets, "valid", 1000, ALL)) == 40
    assert measure(Sample(sets, "nowhere", 1000, ALL), None) == {}


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    network = Network(settings_for(inputs(memory_shards(products(20), products(12)))))
    shapes = jax.eval_shape(network.init_params, jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)


def evaluator(given, mesh=None):
    settings = settings_for(given, evaluation=Evaluation(batch=16, stability=2000))
    return Evaluator(Network(settings), make_mesh(mesh or Mesh(data=1)), given)


def test_a_run_measures_it_as_it_trains_and_reports_it(given, params):
    made = evaluator(given)
    values = made(params)
    names = {name.split("/")[1].split("100_")[0] for name in values if "stability/" in name}
    assert set(IN_TRAINING) <= names
    parts = [values[f"stability/{s}100_recall_at_1"] for s in stability.ONE_MISSING]
    assert min(parts) <= values["stability"] <= max(parts)
    assert values["floor/stability"] == pytest.approx(1 / 12)
    assert values["targets/stability_items"] == 9
    table, report = made.reports(params, 7)
    row = next(row for row in table.rows if row.metric == "stability")
    assert row.model.value == pytest.approx(values["stability"])
    assert report.name == "stability-valid"
    metrics = report.json()["metrics"]
    for name in stability.SETTINGS:
        assert f"{name}100_product_recall_at_10" in metrics
    assert metrics["TMR100_recall_at_1"]["targets"] == 8
    floor = metrics["TMR100_recall_at_1"]["baselines"][stability_floors.SIDE_BY_SIDE]
    assert floor["value"] == 1
    assert "no title" in report.text()
    assert "| no title |" in report.markdown()


@pytest.mark.slow
def test_devices_change_nothing(given, params):
    one = evaluator(given)._stability(params)
    several = evaluator(given, Mesh(data=2, fsdp=2, tensor=2))._stability(params)
    assert one.keys() == several.keys()
    for name, metric in one.items():
        # Rows of other devices are added in another order; ranks differ by less than ties.
        np.testing.assert_allclose(several[name].total, metric.total, atol=1e-5)


def test_a_floor_without_words_triples_or_pictures_is_one(given):
    bare = [having(r, knowledge=(), image=NO_PICTURE) for r in products(6)]
    sample = Sample([memory_shards([], bare)], "valid", 100, ALL)
    (found,) = stability_floors.measure(sample).values()
    assert found.keys() == {"clean_product_recall_at_1", "clean_product_recall_at_10"} | {
        name for name in found if name.startswith("TNR100")
    }
    report = stability_report(found, {}, sample, "valid", 0)
    assert "left out, no title" in report.notes
    assert measure(sample, lambda sources: np.ones((sum(map(len, sources)), 2)))
