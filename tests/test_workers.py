"""Parallel mapping: in order, in bounded memory, and with nobody left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from k3m_jax.data.workers import AHEAD, CHUNK, ordered_map


def double(x):
    return 2 * x


def die(x):
    os._exit(1)


def tell_and_wait(x):
    print(os.getpid(), flush=True)
    time.sleep(600)


def test_in_this_process():
    assert list(ordered_map(double, range(5), 0)) == [0, 2, 4, 6, 8]


def test_order_is_kept_and_inputs_are_not_drawn_ahead_of_need():
    drawn = 0

    def inputs():
        nonlocal drawn
        while drawn < 1000:
            yield drawn
            drawn += 1

    results = ordered_map(double, inputs(), 2)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert drawn < 2 * AHEAD * CHUNK
    assert list(results) == [2 * x for x in range(3, 1000)]


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_not_a_wait():
    with pytest.raises(BrokenProcessPool):
        list(ordered_map(die, range(5), 2))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "from k3m_jax.data.workers import ordered_map; from tests.test_workers import *\n"
        "if __name__ == '__main__': list(ordered_map(tell_and_wait, range(1), 1))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
