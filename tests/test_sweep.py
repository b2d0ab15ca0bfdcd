"""A sweep from end to end: everything is measured once, whatever fails or is stopped on the way."""

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
from k3m_jax.evaluation.task_floors import FLOORS
from k3m_jax.experiments import grid_results
from k3m_jax.experiments.grid import Grid, Lane
from k3m_jax.experiments.sweep import sweep
from k3m_jax.settings import UserError
from k3m_jax.training.preemption import EXIT_PREEMPTED


def grid_of(*models):
    config = get_config()
    task = finetune_classification.get_config()
    # Patches of another size than the shards': this model can't be trained.
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


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Of a model that can't be trained, and one that can."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(grid_of("broken", "k3m"), folder, workers=1)


@pytest.mark.slow
def test_a_lane_that_fails_is_told_and_holds_up_no_other(swept):
    folder, outcome = swept
    assert (outcome.done, outcome.cells, outcome.stopped) == (4, 8, False)
    (lane,) = outcome.failed
    assert lane == Lane("tiny", "broken", 0)
    assert outcome.failed[lane].startswith("error: ")
    assert "patch_size" in outcome.failed[lane]
    results = grid_results.read_results(folder / grid_results.RESULTS)
    assert {cell.model for cell in results} == {"k3m", *FLOORS}  # which its lane measures now


@pytest.mark.slow
def test_results_hold_metrics_and_cost(swept):
    folder, _ = swept
    results = grid_results.read_results(folder / grid_results.RESULTS)
    results = {cell: line for cell, line in results.items() if cell.model == "k3m"}
    assert [(c.task, c.corruption) for c in results] == [
        ("pretraining", ""),
        ("classification", ""),
        ("classification", "TMR50"),
        ("classification", "TMR100"),
    ]
    pretraining, *measured = results.values()
    assert pretraining["parameters"] > 1000
    assert pretraining["flops"] > 1e6
    assert pretraining["seconds"] > 0
    assert {"loss", "link_mrr"} <= set(pretraining["metrics"])
    for each in measured:
        low, high = each["metrics"]["accuracy"]["interval"]
        assert 0 <= low <= each["metrics"]["accuracy"]["value"] <= high <= 1
        assert each["examples"] > each["products"] > 1


@pytest.mark.slow
def test_what_has_a_result_is_not_done_again_even_without_its_runs(swept, tmp_path):
    folder, _ = swept
    shutil.copy(folder / grid_results.RESULTS, tmp_path)
    outcome = sweep(grid_of("k3m"), tmp_path, workers=1)
    assert (outcome.done, outcome.cells, outcome.failed) == (4, 4, {})
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()


def test_products_that_are_not_there_are_told_by_the_grids_own_key(tmp_path):
    grid = grid_of("k3m")
    missing = dataclasses.replace(grid.data["tiny"], folder=str(tmp_path / "nothing"))
    grid = dataclasses.replace(grid, data={"tiny": missing})
    with pytest.raises(UserError, match=r"data\.tiny\.folder: there is no .*products\.jsonl"):
        sweep(grid, tmp_path, workers=1)


def test_a_second_sweep_in_the_folder_is_refused(tmp_path):
    with (tmp_path / "sweep.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another sweep is at work"):
            sweep(grid_of("k3m"), tmp_path, workers=1)


@pytest.mark.slow
def test_told_to_stop_it_saves_and_says_so(tmp_path):
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
    assert "0 of 21 cells are measured" in out
    assert "run the same command to go on" in err
    assert list(tmp_path.glob("runs/*/*/*/pretraining/checkpoints/*"))
