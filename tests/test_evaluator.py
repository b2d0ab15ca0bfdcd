import dataclasses
import json

import jax
import numpy as np
import pytest
from random_batch import random_batch
from tiny import TINY, tiny_settings

from k3m_jax import objectives
from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation import evaluator as evaluator_module
from k3m_jax.evaluation.evaluator import Evaluator, item_sums
from k3m_jax.model.k3m import Outputs, Product
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Mesh, UserError
from tests.products import inputs, memory_shards, products, settings_for

TABLE = ValueVocabulary.merge([{"colour": {"red": 5, "blue": 3, "green": 1}, "one": {"only": 2}}])


def held_out(items=40, seed=0, links=True):
    """Batches of 16; the last one is filled up with padding."""
    rng = np.random.default_rng(seed)
    batches = []
    for start in range(0, items, 16):
        batch = random_batch(TINY, 16, seed + start)
        batch["mlm_weights"] *= rng.random(batch["mlm_weights"].shape) < 0.6
        known = np.full((16, 1 + start % 3), -1, np.int32)
        known[:, 0] = rng.integers(-1, len(TABLE), 16)
        batch["link_target"], batch["link_known"] = known[:, 0].copy(), known
        if not links:
            batch["link_target"][:] = batch["link_known"][:] = -1
            batch["link_value_weights"][:] = batch["link_item_weights"][:] = 0
        padding = slice(max(items - start, 0), None)
        for name, array in batch.items():
            array[padding] = -1 if name in ("link_target", "link_known") else 0
        batches.append(batch)
    return batches


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(count_words([" ".join(pair) for pair in TABLE.pairs] * 2), 60, folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def network():
    return Network(tiny_settings())


@pytest.fixture(scope="module")
def params(network):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init_params, jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)


def make(network, tokenizer, batches, mesh=None):
    mesh = make_mesh(mesh or Mesh(data=1))
    made = Evaluator(network, mesh, Inputs((), tokenizer, TABLE))
    made._held_out = lambda: batches
    made._training = lambda: [random_batch(TINY, 16, 99)]
    return made


@pytest.fixture(scope="module")
def evaluator(network, tokenizer):
    return make(network, tokenizer, held_out())


@pytest.fixture(scope="module")
def on_other_batches(evaluator, network, tokenizer):
    """An evaluator on other batches, without compiling the network again."""

    def remake(batches):
        other = make(network, tokenizer, batches)
        other._apply = evaluator._apply
        return other

    return remake


@pytest.mark.parametrize("variant", ["kl", "regression", "nce"])
def test_item_sums_add_up_to_the_batch(variant):
    batch = held_out()[0]
    mom = dataclasses.replace(TINY.objectives.mom, variant=variant)
    settings = tiny_settings(objectives=dataclasses.replace(TINY.objectives, mom=mom))
    active = objectives.active(settings)
    regions = TINY.image.classes if variant == "kl" else TINY.image.input_dim
    rng = np.random.default_rng(1)
    shapes = {
        "mlm_logits": (*batch["mlm_targets"].shape, TINY.model.vocabulary),
        "mom_prediction": (*batch["mom_weights"].shape, regions),
        "link_properties": (*batch["link_tokens"].shape[:2], 32),
        "link_values": (*batch["link_tokens"].shape[:2], 32),
    }
    outputs = Outputs(
        product=Product(None, None, rng.normal(size=(16, 32)), None),
        **{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
    )
    whole = objectives.sums(active, outputs, batch, key=None)
    by_item = jax.jit(item_sums, static_argnums=0)(active, outputs, batch)
    for name in whole:
        for part, expected in zip(by_item[name], whole[name], strict=True):
            assert part.shape == (16,)
            np.testing.assert_allclose(part.sum(), expected, rtol=1e-5)
    # The third item's sums are those of a batch in which only it has targets.
    alone = {
        k: v * (np.arange(16) == 3).reshape(-1, *[1] * (v.ndim - 1)) if "weights" in k else v
        for k, v in batch.items()
    }
    for name, value in objectives.sums(active, outputs, alone, key=None).items():
        np.testing.assert_allclose(by_item[name].total[3], value.total, rtol=1e-5)


def test_equals_one_batch_of_everything(evaluator, network, params):
    """Averages are over all targets: not over batches, whose weights differ."""
    batches = held_out()
    names = [name for name in batches[0] if name != "link_known"]
    joined = {name: np.concatenate([b[name] for b in batches]) for name in names}
    apply = jax.jit(network.apply)
    outputs = [apply(params, {name: b[name] for name in names}) for b in batches]
    outputs = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    sums = objectives.sums(objectives.active(TINY), outputs, joined, key=None)
    found = evaluator(params)
    for name, key in (
        ("mlm_loss", "mlm"),
        ("mlm_accuracy", "mlm_accuracy"),
        ("mom_loss", "mom"),
        ("mom_top1", "mom_top1"),
        ("lpm_loss", "lpm"),
    ):
        expected = float(sums[key].total) / float(sums[key].weight)
        assert found[name] == pytest.approx(expected, rel=1e-5)
    total = found["mlm_loss"] + found["mom_loss"] + found["lpm_loss"]
    assert found["loss"] == pytest.approx(total)
    assert found["targets/mlm_tokens"] == joined["mlm_weights"].sum()
    assert found["targets/mom_regions"] == joined["mom_weights"].sum()
    colour = joined["link_target"]
    start, end = TABLE.range("colour")
    assert found["targets/lpm_links"] == ((start <= colour) & (colour < end)).sum()
    assert found["targets/trivial_links_skipped"] == (colour == TABLE.id("one", "only")).sum()


def test_baselines_and_links_are_there(evaluator, params):
    found = evaluator(params)
    for name in (
        "loss",
        "mlm_loss",
        "mlm_accuracy",
        "mom_loss",
        "mom_top1",
        "lpm_loss",
        "link_hits_at_1",
        "link_hits_at_10",
        "link_mrr",
    ):
        assert np.isfinite(found[name])
        assert np.isfinite(found[f"floor/{name}"])
    assert all(type(value) is float for value in found.values())
    assert found["link_hits_at_10"] == 1  # of three values
    # The values stand by their counts: red, blue, green.
    targets = np.concatenate([b["link_target"] for b in held_out()])
    start, end = TABLE.range("colour")
    ranks = targets[(start <= targets) & (targets < end)] - start + 1
    assert found["floor/link_mrr"] == pytest.approx((1 / ranks).mean())


def test_the_same_numbers_each_time(evaluator, params):
    first = evaluator(params)
    sizes = evaluator._apply._cache_size()
    other = evaluator(jax.tree.map(lambda x: 2 * x, params))
    assert other["loss"] != first["loss"]
    assert {k: v for k, v in other.items() if "/" in k} == {
        k: v for k, v in first.items() if "/" in k
    }
    assert evaluator(params) == first
    assert evaluator._apply._cache_size() == sizes == 1


def test_padding_counts_nothing(on_other_batches, params, evaluator):
    """Forty items in batches of sixteen, or with sixteen more rows of padding."""
    more = [*held_out(), held_out(items=56)[3]]
    for name, array in more[3].items():
        array[:] = -1 if name in ("link_target", "link_known") else 0
    assert on_other_batches(more)(params) == evaluator(params)


@pytest.mark.slow
def test_devices_change_nothing(network, tokenizer, params, evaluator):
    expected = evaluator(params)
    found = make(network, tokenizer, held_out(), Mesh(data=2, fsdp=2, tensor=2))(params)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Rows of other devices are added in another order; ranks are the same but for that.
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_no_triple_at_all(on_other_batches, params):
    found = on_other_batches(held_out(links=False))(params)
    assert not [name for name in found if "link_" in name or "lpm" in name]
    assert found["targets/trivial_links_skipped"] == 0
    assert found["loss"] == pytest.approx(found["mlm_loss"] + found["mom_loss"])
    json.loads(json.dumps(found, allow_nan=False))


def test_an_empty_split_is_refused(on_other_batches, params):
    with pytest.raises(UserError, match=r"data\.valid_split"):
        on_other_batches([])(params)


def test_the_baseline_reads_its_sample_and_nothing_ahead_of_it(monkeypatch):
    monkeypatch.setattr(evaluator_module, "BASELINE_ITEMS", 20)
    given = inputs(memory_shards(products(200), products(4, first=200)))
    settings = settings_for(given, training=dataclasses.replace(TINY.training, batch=16))
    read = []

    class Reading(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    (shards,) = given.shard_sets
    shards.splits["train"] = Reading(shards.splits["train"])
    made = Evaluator(Network(settings), make_mesh(Mesh(data=1)), given)
    assert len(list(made._training())) == 2
    assert len(read) == 2 * 16
