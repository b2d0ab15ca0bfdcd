"""A sweep measures every trial once, whatever fails or is stopped."""

import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from configs import debug, finetune_classification, quickstart
from configs.grid_catalogue import get_config
from k3m_jax.data.store.shards import open_shards
from k3m_jax.settings import UserError
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import Grid, Products, RunGroup
from k3m_jax.sweeps.run_group import Files
from k3m_jax.sweeps.sweep import prepare, sweep
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.tasks.trivial_baselines import BASELINES
from k3m_jax.training.preemption import EXIT_PREEMPTED

GROUP = RunGroup("tiny", "k3m", 0)


def grid_of(*models):
    config = get_config()
    task = finetune_classification.get_config()
    # Patches of another size than in the shards: this model can't be trained.
    broken = quickstart.get_config()
    broken.image.patch_size = 24
    known = {"broken": broken, "k3m": quickstart.get_config()}
    for each in (*known.values(), task):
        debug.shrink(each)
        each.training.update(steps=2, eval_every=0, checkpoint_every=2, keep=1)
        each.mesh.data = 1
    config.seeds, config.data = (0,), {"tiny": {"products": 60}}
    config.models = {name: known[name] for name in models}
    config.tasks = {"classification": task}
    config.parts = ({"models": models, "corruptions": ("TMR50", "TMR100")},)
    return Grid.parse(config.to_dict())


@pytest.mark.long
def test_results_hold_metrics_and_cost_and_a_failed_run_group_is_skipped(tmp_path):
    outcome = sweep(grid_of("broken", "k3m"), tmp_path, workers=1)
    assert (outcome.finished, outcome.trials, outcome.stopped) == (4, 8, False)
    ((group, reason),) = outcome.failed.items()
    assert group == RunGroup("tiny", "broken", 0)
    assert reason.startswith("error: ")
    assert "patch_size" in reason
    found = results.read_results(tmp_path / results.RESULTS)
    assert {trial.model for trial in found} == {"k3m", *BASELINES}
    found = {trial: line for trial, line in found.items() if trial.model == "k3m"}
    assert [(trial.task, trial.corruption) for trial in found] == [
        ("pretraining", ""),
        ("classification", ""),
        ("classification", "TMR50"),
        ("classification", "TMR100"),
    ]
    pretraining, *downstream = found.values()
    assert pretraining["parameters"] > 1000
    assert pretraining["flops"] > 1e6
    assert pretraining["seconds"] > 0
    assert {"loss", "link_mrr"} <= set(pretraining["metrics"])
    for each in downstream:
        low, high = each["metrics"]["accuracy"]["interval"]
        assert 0 <= low <= each["metrics"]["accuracy"]["value"] <= high <= 1
        assert each["examples"] > each["products"] > 1


def test_finished_trials_are_skipped_even_without_their_runs(tmp_path):
    grid = grid_of("k3m")
    for trial in grid.trials():
        content = {"metrics": {"accuracy": {"value": 0.5, "interval": None}}}
        results.append(tmp_path / results.RESULTS, trial, grid.fingerprint(trial), content)
    outcome = sweep(grid, tmp_path, workers=1)
    assert (outcome.finished, outcome.trials, outcome.failed) == (4, 4, {})
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()


def test_a_missing_folder_of_products_is_an_error_that_names_the_grids_key(tmp_path):
    grid = grid_of("k3m")
    missing = dataclasses.replace(grid.data["tiny"], folder=str(tmp_path / "nothing"))
    grid = dataclasses.replace(grid, data={"tiny": missing})
    with pytest.raises(UserError, match=r"data\.tiny\.folder: .*products\.jsonl"):
        sweep(grid, tmp_path, workers=1)


def prepared(workdir, **products):
    """Builds the shards of a level of data; returns the time when they were built."""
    level = dataclasses.replace(Products(products=12, image_size=32), **products)
    grid = dataclasses.replace(grid_of("k3m"), data={"tiny": level})
    prepare(grid, Files(workdir), GROUP)
    return open_shards(Files(workdir).shards(grid, GROUP)).folder.stat().mtime


def test_products_of_another_grid_are_an_error(tmp_path):
    built = prepared(tmp_path)
    assert prepared(tmp_path) == built
    for change, message in (
        ({"products": 13}, "products 12, and data.tiny of the grid has 13"),
        ({"overlap": 0.75}, "overlap 0.5"),
        ({"seed": 1}, "seed 0"),
        ({"image_size": 48}, "image_size 32"),
        ({"patch_size": 8}, "patch_size 16"),
    ):
        with pytest.raises(UserError, match=f"{tmp_path}/data/tiny was made with {message}"):
            prepared(tmp_path, **change)
    shutil.rmtree(tmp_path / "data" / "tiny")
    prepared(tmp_path, products=13)


def test_a_folder_of_products_is_an_error_once_it_has_changed(tmp_path):
    raw = tmp_path / "raw"
    make_catalogue(raw, products=12, seed=0, overlap=0.5, image_size=32)
    built = prepared(tmp_path, folder=str(raw))
    assert prepared(tmp_path, folder=f"{tmp_path}/../{tmp_path.name}/raw") == built  # the same
    with pytest.raises(UserError, match="was made with folder content"):
        prepared(tmp_path)
    lines = (raw / "products.jsonl").read_text().splitlines(keepends=True)
    (raw / "products.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="was made with folder content"):
        prepared(tmp_path, folder=str(raw))


def test_a_second_sweep_in_the_folder_is_an_error(tmp_path):
    with (tmp_path / "sweep.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another sweep is running"):
            sweep(grid_of("k3m"), tmp_path, workers=1)


@pytest.mark.long
def test_a_signal_makes_a_sweep_save_and_stop(tmp_path):
    command = [
        sys.executable, "-m", "launch.sweep", "--grid=configs/grid_catalogue.py:debug",
        f"--workdir={tmp_path}", "--grid.models.k3m.training.steps=100000",
        "--grid.models.bert_pkg.training.steps=100000",
    ]  # fmt: skip
    started = subprocess.Popen(
        command, cwd=ROOT, env=os.environ, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(tmp_path.glob("runs/*/*/*/*/timing.jsonl")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=300)
    assert started.returncode == EXIT_PREEMPTED, err
    assert "0 of 21 trials are measured" in out
    assert list(tmp_path.glob("runs/*/*/*/pretraining/checkpoints/*"))
