"""What used to wait for ever."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from k3m_jax.data.store import disk
from k3m_jax.settings import DiskError
from k3m_jax.training.events import EventWriter
from launch import cli, inspect_checkpoint

FULL = pathlib.Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_whoever_writes_events(tmp_path):
    """More of them than any queue holds."""
    writer = EventWriter(tmp_path, 0)
    with open(FULL, "wb") as full:
        os.dup2(full.fileno(), writer._writer._py_recordio_writer._writer.fileno())

    def write():
        for step in range(1000):
            writer.add_scalar("train/loss", 1.0, step)
            writer.flush()

    with pytest.raises(OSError, match="No space left"):
        write()


HANG = """
import time
from k3m_jax.parallel import distributed
from k3m_jax.settings import Distributed
with distributed.initialize(Distributed("off", timeout=2), saves=True):
    distributed.heartbeat("the batch of step 7")
    {}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code"), [("time.sleep(60)", -signal.SIGABRT), ("pass", 0), ("1 / 0", 1)]
)
def test_a_single_process_that_hangs_is_ended(body, code):
    command = [sys.executable, "-c", HANG.format(body)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code
    assert ("stood at the batch of step 7 for 2 s" in ended.stderr) == (code == -signal.SIGABRT)


def test_no_room_for_a_checkpoint_is_one_line_before_the_start(tmp_path):
    disk.check_space(tmp_path, 1, "a checkpoint")
    with pytest.raises(DiskError, match=r"a checkpoint takes .* MB are free: make room"):
        disk.check_space(tmp_path, 1 << 60, "a checkpoint")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"),
        ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device [OS error 28]"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
def test_what_a_disk_fails_at_is_one_line(error, tmp_path, capsys, monkeypatch):
    def run():
        with disk.run_in(tmp_path):
            raise error

    with pytest.raises(DiskError, match="what is saved stays") as caught:
        run()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(inspect_checkpoint, "main", fails := lambda flags: run())
    fails.__annotations__["flags"] = inspect_checkpoint.Flags
    fails.__module__ = inspect_checkpoint.__name__
    assert cli.run_command("launch.inspect_checkpoint", ["--workdir=x"]) == 74
    assert capsys.readouterr().err.count("\n") == 1


def test_faults_of_the_program_stay_faults(tmp_path):
    with pytest.raises(ZeroDivisionError), disk.run_in(tmp_path):
        raise ZeroDivisionError
