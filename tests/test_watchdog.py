import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT


def start(body, seconds=60):
    """A process that has a watchdog `w` and runs `body`."""
    code = (
        "import faulthandler, os, signal, time; "
        "from k3m_jax.parallel.watchdog import END, Watchdog;"
        f" faulthandler.enable(); w = Watchdog({seconds}); w.name = 'process 1 of 4'; "
        f"beat = w.heartbeat; {body}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def test_a_death_is_reported_with_its_place():
    process = start("beat('step 6'); beat('step 7'); os.kill(os.getpid(), signal.SIGKILL)")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert errors.strip().splitlines() == [
        "error: process 1 of 4 died at step 7: run the same command again to go on"
    ]


@pytest.mark.parametrize("end", ["beat(END)", "beat('step 7'); w.stop(); time.sleep(0.2)"])
def test_an_orderly_end_is_not(end):
    process = start(end)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_a_hanging_process_is_ended_and_prints_its_stack():
    process = start("beat('step 7'); exec('def hang(): time.sleep(600)'); hang()", seconds=1)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGABRT
    assert "error: process 1 of 4 stood at step 7 for 1 s" in errors
    assert "in hang" in errors


def test_a_stopped_process_is_ended_too():
    process = start("beat('step 7'); os.kill(os.getpid(), signal.SIGSTOP)", seconds=1)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert "stood at step 7 for 1 s" in errors


def test_a_process_that_moves_lives():
    process = start("[(beat(f'step {i}'), time.sleep(0.1)) for i in range(15)]; beat(END)", 1)
    assert process.communicate(timeout=30)[1] == ""


def test_the_watchdog_outlives_signals_to_the_whole_group():
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; from k3m_jax.parallel.watchdog import Watchdog; w = Watchdog(60)\n"
            "beat = w.heartbeat\n"
            "beat('step 7'); print('up', flush=True); signal.pause()",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process.stdout.readline()
    time.sleep(0.5)  # the child has started
    os.killpg(process.pid, signal.SIGTERM)
    assert "died at step 7" in process.communicate(timeout=30)[1]
