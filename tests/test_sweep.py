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
from k3m_jax.data.store.shards import open_shards
from k3m_jax.settings import UserError
from k3m_jax.sweeps import results
from k3m_jax.sweeps.grid import Grid, Products, RunGroup
from k3m_jax.sweeps.run_group import Files
from k3m_jax.sweeps.sweep import MADE_OF, prepare, sweep
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.tasks.trivial_baselines import BASELINES
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
    assert lane == RunGroup("tiny", "broken", 0)
    assert outcome.failed[lane].startswith("error: ")
    assert "patch_size" in outcome.failed[lane]
    found = results.read_results(folder / results.RESULTS)
    assert {cell.model for cell in found} == {"k3m", *BASELINES}  # which its lane measures now


@pytest.mark.slow
def test_results_hold_metrics_and_cost(swept):
    folder, _ = swept
    found = results.read_results(folder / results.RESULTS)
    found = {cell: line for cell, line in found.items() if cell.model == "k3m"}
    assert [(c.task, c.corruption) for c in found] == [
        ("pretraining", ""),
        ("classification", ""),
        ("classification", "TMR50"),
        ("classification", "TMR100"),
    ]
    pretraining, *measured = found.values()
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
    shutil.copy(folder / results.RESULTS, tmp_path)
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


def prepared(workdir, **products):
    """The shards of a level, without its runs; returns when they were built."""
    level = dataclasses.replace(Products(products=12, image_size=32), **products)
    grid = dataclasses.replace(grid_of("k3m"), data={"tiny": level})
    lane = RunGroup("tiny", "k3m", 0)
    prepare(grid, Files(workdir), lane)
    return open_shards(Files(workdir).shards(grid, lane)).folder.stat().mtime


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"products": 13}, "products 12, and data.tiny of the grid has 13"),
        ({"overlap": 0.75}, "overlap 0.5"),
        ({"seed": 1}, "seed 0"),
        ({"image_size": 48}, "image_size 32"),
        ({"patch_size": 8}, "patch_size 16"),
    ],
)
def test_products_of_another_grid_are_refused(tmp_path, change, told):
    built = prepared(tmp_path)
    assert prepared(tmp_path) == built
    with pytest.raises(UserError, match=f"{tmp_path}/data/tiny was made with {told}") as error:
        prepared(tmp_path, **change)
    assert f"remove that folder and the runs in {tmp_path}/runs/tiny" in str(error.value)
    shutil.rmtree(tmp_path / "data" / "tiny")
    prepared(tmp_path, **change)


def test_a_folder_of_products_is_refused_once_it_has_changed(tmp_path):
    raw = tmp_path / "raw"
    make_catalogue(raw, products=12, seed=0, overlap=0.5, image_size=32)
    built = prepared(tmp_path, folder=str(raw))
    assert prepared(tmp_path, folder=f"{tmp_path}/../{tmp_path.name}/raw") == built  # the same
    with pytest.raises(UserError, match="was made with a folder of content"):
        prepared(tmp_path)
    lines = (raw / "products.jsonl").read_text().splitlines(keepends=True)
    (raw / "products.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="was made with a folder of content"):
        prepared(tmp_path, folder=str(raw))


def test_products_without_a_note_are_taken_as_far_as_their_shards_fit(tmp_path):
    built = prepared(tmp_path)
    (tmp_path / "data" / "tiny" / MADE_OF).unlink()
    assert prepared(tmp_path, overlap=0.75) == built
    assert not (tmp_path / "data" / "tiny" / MADE_OF).exists()
    with pytest.raises(UserError, match="made with patch_size 16"):
        prepared(tmp_path, patch_size=8)


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
