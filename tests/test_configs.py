import dataclasses
import importlib

import jax
import pytest
from conftest import ROOT
from jax.sharding import AbstractMesh

from configs import meshes
from k3m_jax.parallel.mesh import AXES, make_mesh
from k3m_jax.parallel.shardings import param_shardings
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.training.task_network import network_of
from k3m_jax.training.trainer import Trainer

PODS = {"tpu_v5e_256": (16, 16, 1), "tpu_v5p_128": (16, 8, 1)}
NAMES = (
    "baselines",
    "k3m_base",
    "k3m_release",
    "k3m_robust",
    "quickstart",
    "gpu_debug",
    "overfit_batch",
    "minilm_warm_start",
    "finetune_classification",
    "finetune_alignment",
    "finetune_questions",
    "gpu_8xh100",
    *PODS,
)


def load(name, variant=""):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    return Settings.from_config(config)


def resolved(settings):
    task = dataclasses.replace(settings.task, classes=("one", "other"))
    settings = dataclasses.replace(settings, task=task)
    return settings.resolved(vocabulary=21128, classes=1600)


def parameters(settings):
    network = network_of(resolved(settings))
    shapes = jax.eval_shape(lambda: network.init_params(jax.random.key(0)))
    return sum(x.size for x in jax.tree.leaves(shapes))


def test_all_of_them_are_tested():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    # Grids of many settings and files of tasks have tests of their own.
    assert {name for name in files if not name.startswith(("grid_", "tasks_"))} == {
        *NAMES, "__init__", "debug", "meshes"
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_short(name):
    load(name)
    assert len((ROOT / "configs" / f"{name}.py").read_text().splitlines()) <= 50


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_debug_variant(name):
    settings, small = load(name), load(name, "debug")
    assert small.training.steps <= 20
    assert parameters(small) < 3e6
    # What the shards were built with is not for a variant to change.
    assert small.image == settings.image
    with pytest.raises(UserError, match="'bug'"):
        load(name, "bug")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["", "debug"])
def test_each_fits_eight_devices(name, variant):
    if name in PODS and not variant:
        pytest.skip("for a pod")
    settings = resolved(load(name, variant))
    Trainer(network_of(settings), make_mesh(settings.mesh))


@pytest.mark.parametrize("name", PODS)
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_pods_spread_almost_everything(name, tensor):
    """`param_shardings` refuses more than 2 % of replicated bytes, and what does not divide."""
    settings = resolved(load(name))
    data, fsdp, _ = PODS[name]
    assert settings.mesh == Mesh(data=-1, fsdp=fsdp)
    assert settings.training.batch % (data * fsdp * settings.objectives.group) == 0
    mesh = AbstractMesh((data // tensor, fsdp, tensor), AXES)
    network = network_of(settings)
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    assert jax.tree.leaves(param_shardings(mesh, params, network.param_axes()))


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        (meshes.replicated(), (8, 1, 1)),
        (meshes.fsdp(), (1, 8, 1)),
        (meshes.fsdp(4), (2, 4, 1)),
        (meshes.fsdp_tensor(2), (1, 4, 2)),
        (meshes.fsdp_tensor(2, 2), (2, 2, 2)),
    ],
)
def test_presets_of_meshes(preset, shape):
    assert tuple(make_mesh(Mesh(**preset)).shape.values()) == shape


def test_the_base_is_of_the_papers_size():
    assert 2.3e8 < parameters(load("k3m_base")) < 2.8e8


@pytest.mark.parametrize("name", ["k3m_base", "gpu_8xh100", *PODS])
def test_of_millions_held_out_a_sample_is_measured_in_whole_batches(name):
    evaluation = load(name).evaluation
    assert evaluation.products == 8192
    assert evaluation.products % evaluation.batch == 0


def test_the_overfitting_one_has_no_noise_to_fit():
    settings = load("overfit_batch")
    assert settings.training.one_batch
    assert settings.model.dropout == 0
