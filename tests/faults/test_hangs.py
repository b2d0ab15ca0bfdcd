"""What used to wait for ever."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from k3m_jax.training.events import EventWriter

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
