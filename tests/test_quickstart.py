"""The quickstart: its commands on a tiny catalogue, and whole what it must learn."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from launch.cli import run_command

RATES = ("mlm_accuracy", "mom_top1", "link_hits_at_1", "link_mrr")


@pytest.mark.slow
def test_its_commands_take_a_tiny_catalogue_to_a_table(tmp_path, capsys):
    catalogue, shards, run = (str(tmp_path / name) for name in ("catalogue", "shards", "run"))
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}:debug"
    sources, alone = f"--config.data.sources={shards}", "distributed.coordinator=off"
    for command, *arguments in (
        ("make_catalogue", f"--output={catalogue}", "--products=40", "--workers=0"),
        (
            "build_shards",
            "--format=jsonl",
            f"--input={catalogue}",
            f"--output={shards}",
            "--image_size=96",
            "--patch_size=16",
            "--workers=0",
        ),
        ("show_batch", config, sources, f"--output={tmp_path / 'batch.png'}", "--rows=2"),
        ("pretrain", config, sources, f"--workdir={run}", f"--config.{alone}"),
        ("evaluate", f"--workdir={run}", "--split=test", f"--{alone}"),
    ):
        assert run_command(f"launch.{command}", arguments) == 0, capsys.readouterr().err
    assert "link MRR" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
    assert set(RATES) <= report["metrics"].keys()
    for name in ("run/curves.png", "batch.png"):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.long
def test_the_quickstart_learns_and_does_nothing_twice(tmp_path):
    for name in ("k3m_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    # The environment of this test, as one that has its requirements already.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    venv = pathlib.Path(sys.prefix)
    environment["K3M_VENV"] = str(venv)
    if not (venv / ".installed" / "requirements.txt").exists():
        pytest.skip("not in an environment that the project's scripts made")

    def quickstart():
        return subprocess.run(
            [tmp_path / "launch" / "quickstart.sh"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    said = quickstart()
    assert "link MRR" in said
    run = tmp_path / "runs" / "quickstart" / "run"
    assert (run / "curves.png").stat().st_size > 10_000
    metrics = json.loads((run / "evaluation-test.json").read_text())["metrics"]
    for rate in RATES:
        low, _ = metrics[rate]["interval"]
        (baseline,) = metrics[rate]["baselines"].values()
        assert low > baseline["value"], (rate, metrics[rate])

    before = (run / "metrics.jsonl").read_bytes()
    assert "== Shards" not in quickstart()
    assert (run / "metrics.jsonl").read_bytes() == before
