"""The quickstart, whole: what it promises is above its floors on products never touched."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

RATES = ("mlm_accuracy", "mom_top1", "link_hits_at_1", "link_mrr")


@pytest.mark.slow
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
        assert low > metrics[rate]["floor"], (rate, metrics[rate])

    before = (run / "metrics.jsonl").read_bytes()
    assert "== Shards" not in quickstart()
    assert (run / "metrics.jsonl").read_bytes() == before
