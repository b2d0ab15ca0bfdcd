"""A run that is killed at random moments, again and again, ends as one that never was."""

import json
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from tests.faults.killed_run import RESULT

STEPS = 40


def start(folder: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.faults.killed_run", str(folder), str(STEPS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: pathlib.Path) -> tuple[dict, list]:
    process = start(folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()[-3000:]
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return load_file(folder / RESULT), lines


@pytest.mark.long
@pytest.mark.parametrize("kills", [20])
def test_kills_at_random(tmp_path, kills):
    """Of these many kills some come at the start, some while a checkpoint is written or deleted."""
    before = time.monotonic()
    expected, lines = finish(tmp_path / "whole")
    seconds, draw = time.monotonic() - before, random.Random(0)
    for _ in range(kills):
        process = start(tmp_path / "killed")
        time.sleep(draw.uniform(0.3, 1.1) * seconds)
        process.kill()
        process.communicate()
    found, killed_lines = finish(tmp_path / "killed")
    assert killed_lines == lines
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
