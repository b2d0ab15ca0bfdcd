import importlib
import math

import pytest

from configs import grid_catalogue, grid_real_products, quickstart
from configs.baselines import SIZES
from k3m_jax import settings as s
from k3m_jax.compile_check.cost import cost_table, measure_input, parameters
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.settings import Settings
from k3m_jax.training.flops import training_flops
from tests.products import inputs, memory_shards, products, settings_for

# One sequence uses each parameter at every position of it, text alone at few: these can't have both
# numbers of K3M, and have its FLOPs.
OF_ITS_FLOPS_ALONE = {"bert", "bert_pkg", "vlbert_pkg"}


def read(name, argument=""):
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    # As the quickstart's shards have it.
    return Settings.from_config(config).resolved(vocabulary=1384, classes=256)


@pytest.mark.parametrize("name", SIZES)
def test_baselines_cost_what_k3m_costs(name):
    ours, theirs = read("quickstart"), read("baselines", name)
    assert training_flops(theirs) == pytest.approx(training_flops(ours), rel=0.1)
    same = parameters(theirs) == pytest.approx(parameters(ours), rel=0.1)
    assert same == (name not in OF_ITS_FLOPS_ALONE)
    assert (theirs.training, theirs.optimizer) == (ours.training, ours.optimizer)


@pytest.mark.parametrize(("variant", "dearer"), [("wide", 3.5), ("longer", 3.0), ("longest", 9.0)])
def test_they_do_where_all_are_larger_or_train_longer(variant, dearer):
    models = grid_catalogue.get_config(variant).models

    def cost(config):
        settings = Settings.from_config(config).resolved(vocabulary=1384, classes=256)
        return training_flops(settings) * settings.training.steps

    costs = {name: cost(config) for name, config in models.items()}
    assert costs == {name: pytest.approx(costs["k3m"], rel=0.05) for name in costs}
    assert costs["k3m"] == pytest.approx(dearer * cost(quickstart.get_config()), rel=0.01)
    assert set(costs) == {"k3m", "vlbert_pkg", "bert_pkg"}


def test_they_do_on_real_products_too():
    """Longer knowledge makes the same sizes dearer, or cheaper, relative to K3M."""
    models = grid_real_products.get_config("CATALOGUE").models
    cost = {
        name: training_flops(Settings.from_config(config).resolved(vocabulary=1387, classes=256))
        for name, config in models.items()
    }
    assert len(cost) == 8
    assert cost == {name: pytest.approx(cost["k3m"], rel=0.1) for name in cost}
    assert len({config.training.steps * config.training.batch for config in models.values()}) == 1


def test_the_table_shows_differences_from_the_first():
    models = {"first": read("quickstart"), "second": read("baselines", "lxmert")}
    _, _, first, second = cost_table(models).splitlines()
    assert first.startswith("| first | 494,632 | +0.0 % |")
    assert second.startswith("| second | 501,224 | +1.3 % |")
    assert first.count("+0.0 %") == 3


def test_the_input_of_a_run_is_measured_without_a_model():
    given = inputs(memory_shards(products(20)))
    settings = settings_for(given, training=s.Training(steps=9, batch=8))
    found = measure_input(settings, given, steps=2)
    assert found.items == 16
    assert found.rate == found.items / found.cpu_seconds > 0
    per_item = sum(
        math.prod(shape) * dtype.itemsize
        for shape, dtype in BatchLayout.of(settings).spec(8).values()
    )
    assert found.bytes_per_item == per_item / 8
