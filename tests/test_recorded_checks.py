"""The recorded compile checks: within the promised limits, and of the current configurations."""

import functools
import importlib
import json
import math

import jax
import pytest
from conftest import ROOT

from k3m_jax.model.network import Network
from k3m_jax.settings import Settings
from k3m_jax.training.flops import training_flops

CONFIGS = ("tpu_v5e_256", "tpu_v5p_128", "gpu_8xh100")


def recorded(name):
    return json.loads((ROOT / "docs" / "compile_check" / f"{name}.json").read_text())


@functools.cache
def settings_of(config, vocabulary, classes):
    settings = Settings.from_config(importlib.import_module(f"configs.{config}").get_config())
    return settings.resolved(vocabulary=vocabulary, classes=classes)


@pytest.mark.parametrize("name", [*CONFIGS, *(f"{config}_largest" for config in CONFIGS)])
def test_the_step_fits_and_wastes_little(name):
    found = recorded(name)
    assert found["compiler"] in ("tpu", "cuda")
    assert found["total_bytes"] <= found["memory_bytes"]
    assert not found["remat"]
    assert found["flops"] <= 1.15 * found["model_flops"]
    assert found["sent_bytes"] <= 1.2 * found["fsdp_bytes"]
    assert found["gathered_again"] == {}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_compiled_step_is_that_of_the_configuration(config):
    """If this fails, run the commands of docs/scaling.md again and update its figures."""
    found = recorded(config)
    settings = settings_of(config, found["vocabulary"], found["classes"])
    sizes, devices = found["mesh"], math.prod(found["mesh"].values())
    for axis, size in sizes.items():
        assert getattr(settings.mesh, axis) in (size, -1)
    assert found["batch"] == settings.training.batch
    for each in (found, recorded(f"{config}_largest")):
        assert each["mesh"] == sizes
        assert each["unroll"] == settings.model.unroll
        flops = training_flops(settings) * each["batch"] / devices
        assert each["model_flops"] == pytest.approx(flops)


def test_the_compiled_model_has_as_many_parameters_as_the_current_one():
    found = recorded(CONFIGS[0])
    network = Network(settings_of(CONFIGS[0], found["vocabulary"], found["classes"]))
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
