"""The compile check: its figures, its advice, and its command."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import pytest
from conftest import QUICK_COMPILATION, ROOT
from tiny import TINY, tiny_compiled, tiny_settings

from k3m_jax.compile_check.accelerators import find_chip
from k3m_jax.compile_check.check import DoesNotFitError, check, find_batch
from k3m_jax.compile_check.table import table
from k3m_jax.compile_check.topologies import Topology, open_topology
from k3m_jax.settings import Mesh, UserError
from k3m_jax.training.flops import training_flops
from k3m_jax.training.trainer import Trainer

GIB = 2**30


def fake_topology(memory=16 * GIB):
    """The CPU devices of this process with the figures of a TPU."""
    chip = find_chip("TPU v5e")._replace(memory=memory)
    return Topology("v5e:2x4", jax.devices(), chip, "tpu", {})


def check_tiny(memory=16 * GIB):
    """The check of a step that is compiled only once for all tests."""
    compiled = tiny_compiled(2, 4, 1)
    lowered = types.SimpleNamespace(compile=lambda options: compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "lower", lambda trainer: lowered)
        return check(tiny_settings(mesh=Mesh(data=2, fsdp=4)), fake_topology(memory))


@pytest.fixture(scope="module")
def checked():
    return check_tiny()


@pytest.mark.slow
def test_figures_are_consistent(checked):
    batch = TINY.training.batch
    assert checked.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    assert checked.model_flops == pytest.approx(training_flops(TINY) * batch / 8)
    # The formula counts the arithmetic of matrix products, and so does the check.
    assert checked.flops == pytest.approx(checked.model_flops, rel=0.1)
    assert not checked.gathered_again
    assert checked.total_bytes >= checked.temporary_bytes + checked.argument_bytes
    slowest = max(checked.compute_seconds, checked.memory_seconds, checked.interconnect_seconds)
    assert checked.step_seconds == slowest
    assert checked.items_per_second == pytest.approx(batch / slowest)
    peak = 8 * find_chip("TPU v5e").flops
    assert checked.mfu == pytest.approx(training_flops(TINY) * batch / slowest / peak)


@pytest.mark.slow
def test_the_table_and_the_file_agree(checked):
    written = json.loads(json.dumps(checked.json()))
    assert written["bound"] == checked.bound
    assert written["collectives"]["all-gather"]["sent"] > 0
    text = table(checked)
    for part in (f"{checked.parameters:,}", "16.00 GiB", "no parameter", checked.bound, "v5e:2x4"):
        assert part in text


@pytest.mark.slow
def test_an_error_names_settings_that_would_make_the_step_fit():
    with pytest.raises(
        DoesNotFitError, match=r"mesh\.fsdp, 4 now.*model\.remat.*training\.batch, 32"
    ):
        check_tiny(memory=1000)


def test_running_out_of_memory_names_settings_that_would_help(monkeypatch):
    """Like a TPU's compiler; a GPU's never fails."""

    def lower(trainer):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory.\n\nAnd so on")

    monkeypatch.setattr(Trainer, "lower", lower)
    with pytest.raises(DoesNotFitError, match=r"out of memory.*model\.remat"):
        check(tiny_settings(mesh=Mesh(data=2, fsdp=4)), fake_topology())


def test_on_a_gpu_unrolling_is_advised_before_remat(monkeypatch):
    def lower(trainer):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory.")

    monkeypatch.setattr(Trainer, "lower", lower)
    gpu = fake_topology()._replace(compiler="cuda")
    with pytest.raises(DoesNotFitError, match=r"model\.unroll=true, or set model\.remat"):
        check(TINY, gpu)
    unrolled = tiny_settings(model=dataclasses.replace(TINY.model, unroll=True))
    with pytest.raises(DoesNotFitError, match=r"memory_fraction [^,]*, or set model\.remat"):
        check(unrolled, gpu)


@pytest.mark.parametrize("start", [32, 320, 3200])
def test_the_largest_batch_is_found(monkeypatch, start):
    """For a step that needs 1 MB and 2 MB per item."""
    tried = []

    def fake_check(settings, topology):
        tried.append(settings.training.batch)
        total = 1e6 + 2e6 * tried[-1]
        if total > topology.chip.memory:
            raise DoesNotFitError("too large")
        return types.SimpleNamespace(batch=tried[-1], total_bytes=total)

    monkeypatch.setattr("k3m_jax.compile_check.check.check", fake_check)
    training = dataclasses.replace(TINY.training, batch=start)
    found = find_batch(tiny_settings(training=training, mesh=Mesh(data=8)), fake_topology(1e9))
    assert found.batch == 480  # 499.5 items fit; 8 devices take groups of 4
    assert len(tried) <= 7
    with pytest.raises(DoesNotFitError):
        find_batch(tiny_settings(mesh=Mesh(data=8)), fake_topology(1e6))


def test_a_cpu_has_no_largest_batch():
    with pytest.raises(UserError, match=r"find.batch"):
        find_batch(tiny_settings(mesh=Mesh(data=8)), open_topology("cpu:8"))


@pytest.mark.parametrize("name", ["v5e", "v5e:", "tpu:8", "h100:2x4", "cpu:2x4", "v5e:16 x16"])
def test_topologies_have_a_form(name):
    with pytest.raises(UserError, match="expected a form like v5e:16x16"):
        open_topology(name)


@pytest.mark.parametrize("name", ["h100:16", "cpu:0"])
def test_topologies_have_a_size(name):
    with pytest.raises(UserError, match="1 to 8 GPUs"):
        open_topology(name)


@pytest.mark.parametrize(("name", "slices"), [("v5e:2x2", 0), ("h100:4", 2), ("cpu:4", 2)])
def test_only_tpus_have_slices(name, slices):
    with pytest.raises(UserError, match=f"--slices={slices}"):
        open_topology(name, slices)


@pytest.mark.skipif(bool(importlib.util.find_spec("libtpu")), reason="the TPU's compiler is here")
@pytest.mark.parametrize(("name", "slices"), [("v5e:2x4", 1), ("v5e:2x2", 2)])
def test_without_the_compiler_cpu_devices_stand_in(name, slices):
    topology = open_topology(name, slices)
    assert (topology.compiler, len(topology.devices)) == ("cpu", 8)
    assert topology.chip.kind == "TPU v5 lite"
    assert topology.name == (name if slices == 1 else f"2 slices of {name}")


def run(topology, *arguments):
    command = [sys.executable, "-m", "launch.compile_check", "--config=configs/gpu_8xh100.py:debug"]
    return subprocess.run(
        [*command, f"--topology={topology}", "--vocabulary=96", "--classes=8", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": " ".join(QUICK_COMPILATION), "JAX_PLATFORMS": "cpu"},
        check=False,
    )


@pytest.mark.slow
def test_an_unwritable_file_is_an_error_before_compiling(tmp_path):
    done = run("cpu:8", f"--json={tmp_path / 'absent' / 'check.json'}")
    assert done.returncode == 2
    assert f"--json={tmp_path / 'absent' / 'check.json'}" in done.stderr


@pytest.mark.long
def test_the_command_on_simulated_devices(tmp_path):
    done = run("cpu:8", f"--json={tmp_path / 'check.json'}")
    assert done.returncode == 0, done.stderr
    assert "SIMULATED CPU DEVICES" in done.stdout
    written = json.loads((tmp_path / "check.json").read_text())
    assert written["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert (written["vocabulary"], written["bound"]) == (96, None)


@pytest.mark.long
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"),
    reason="needs the TPU's compiler: pip install -r requirements-tpu.txt",
)
@pytest.mark.parametrize(
    ("arguments", "topology", "mesh"),
    [
        ([], "v5e:2x4", "data 1 x fsdp 8"),
        (
            ["--slices=2", "--config.mesh.data=2", "--config.training.batch=32"],
            "2 slices of v5e:2x4",
            "data 2 x fsdp 8",
        ),
    ],
)
def test_the_command_with_the_compiler_of_tpus(arguments, topology, mesh):
    done = run("v5e:2x4", *arguments)
    assert done.returncode == 0, done.stderr
    assert "could not determine" not in done.stderr  # that this is no TPU VM
    assert f"{topology} by the TPU's compiler" in done.stdout
    assert mesh in done.stdout
    assert "gathered again    no parameter" in done.stdout
    assert "bound by" in done.stdout
