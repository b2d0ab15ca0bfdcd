"""Processes of this machine that train as one, over the loopback."""

import contextlib
import signal
import time

import jax
import numpy as np
import pytest

from k3m_jax.parallel import distributed
from k3m_jax.settings import Distributed, Mesh, UserError
from tests import joint
from tests.processes import assert_reports, codes, together

# More than two numbers have several sums: gradients of four processes are added up in another order
# than those of four devices of one, and Adam divides by their root (see test_step.py).
ROUNDING = {"rtol": 2e-3, "atol": 1e-5}
TIMEOUT = 15  # seconds that the short steps of `joint.look` may take; much for a busy machine


# Down to the bits: a few steps of the tiny model.


@pytest.fixture(scope="module")
def jointly(cache):
    """A task of `joint` by several processes."""

    def run(processes, devices, mesh, steps, workdir, task="run"):
        mesh, log = ",".join(map(str, mesh)), workdir.with_suffix(".log")
        started = together(
            lambda address, i: ("tests.joint", task, address, processes, i, mesh, steps, workdir),
            *(processes, devices, cache, log),
        )
        said = [log.with_name(f"{log.name}.{i}") for i in range(processes)]
        assert codes(started) == [0] * processes, [each.read_text() for each in said]
        with np.load(workdir / joint.FOUND) as found:
            return dict(found)

    return run


def test_two_processes_see_the_same_batches(jointly, tmp_path):
    """The short case: their start, their parts of the batches, a sum over all, their end."""
    found = jointly(2, 1, (2, 1, 1), 3, tmp_path, task="look")
    expected = joint.look(Mesh(2, 1, 1), 3, tmp_path)
    assert found["batches"].tolist() == expected["batches"].tolist()
    assert found["means"].tolist() == expected["means"].tolist()


@pytest.mark.slow
def test_four_processes_train_as_one_and_any_number_restores_them(jointly, tmp_path):
    four, one = tmp_path / "four", tmp_path / "one"
    by_four = jointly(4, 1, (2, 2, 1), 2, four)
    by_one = joint.run(Mesh(2, 2, 1), 2, one)
    assert by_four["first"] == 0
    np.testing.assert_array_equal(by_four["begun"], by_one["begun"])
    assert_as_one(by_four, by_one)

    # What the four wrote: by one process on another mesh, and by two, bit for bit.
    alone = joint.run(Mesh(2, 2, 2), 0, four)
    two = jointly(2, 2, (1, 4, 1), 2, four)
    for read in (alone, two):
        assert read["first"] == 2
        np.testing.assert_array_equal(read["begun"], by_four["ended"])

    # And the two go on as the one does, though the rows of each lie apart in the batch.
    assert two["blocks"].tolist() == [0, 2]
    assert_as_one(two, joint.run(Mesh(2, 2, 1), 2, one))


def assert_as_one(several, one):
    assert several["first"] == one["first"]
    assert several["batches"].tolist() == one["batches"].tolist()
    np.testing.assert_allclose(several["losses"], one["losses"], **ROUNDING)
    np.testing.assert_allclose(several["ended"], one["ended"], **ROUNDING)


def test_processes_stopped_at_once_stop_at_the_same_step(jointly, tmp_path):
    stopped = jointly(2, 1, (2, 1, 1), 500, tmp_path, task="stop")["stopped"]
    assert stopped[0] == stopped[1] < 500 + joint.STOP_STEPS - 1


def disturbed(workdir, cache, number):
    """Sends a signal to the second of two processes that look; the codes, within the time."""
    processes = together(
        lambda address, i: (
            *("tests.joint", "look", address, 2, i, "2,1,1", 10_000, workdir, TIMEOUT),
        ),
        *(2, 1, cache, workdir / "log"),
    )
    while not (workdir / joint.BEGUN).exists():
        assert all(process.poll() is None for process in processes), "one ended too early"
        time.sleep(0.02)
    processes[1].send_signal(number)
    return codes(processes, TIMEOUT + 30)


@pytest.mark.long
def test_where_one_hangs_all_end_in_time(tmp_path, cache):
    """A process that is stopped still holds its connections: nothing fails, nothing moves."""
    assert 0 not in disturbed(tmp_path, cache, signal.SIGSTOP)
    assert_reports(tmp_path / "log.0", r"process 0 of 2 (died|stood) at step \d+")
    assert_reports(tmp_path / "log.1", rf"process 1 of 2 stood at step \d+ for {TIMEOUT} s")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_where_one_is_killed_all_end(tmp_path, cache, number):
    """By SIGTERM too, of what has nothing to save."""
    assert 0 not in disturbed(tmp_path, cache, number)
    for i in range(2):
        assert_reports(tmp_path / f"log.{i}", rf"process {i} of 2 died at step \d+")


# The start.


@contextlib.contextmanager
def jax_says(monkeypatch, error):
    """What `jax.distributed.initialize` is called with; it raises `error`."""
    calls = []

    def initialize(**arguments):
        calls.append(arguments)
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    yield calls


def test_without_a_cluster_it_is_one_process(monkeypatch):
    with jax_says(monkeypatch, ValueError("coordinator_address should be defined.")) as calls:
        with distributed.initialize(Distributed()):
            assert distributed.is_lead_process()
        assert calls[0].keys() == {
            "initialization_timeout",
            "heartbeat_timeout_seconds",
            "shutdown_timeout_seconds",
        }


def test_off_contacts_nobody(monkeypatch):
    with jax_says(monkeypatch, AssertionError()) as calls:
        with distributed.initialize(Distributed("off")):
            assert distributed.is_lead_process()
        assert not calls


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (Distributed(), ValueError("Number of processes must be defined.")),
        (Distributed("host:1", 4, 3), RuntimeError("address in use\nor not")),
    ],
)
def test_a_start_that_fails_is_one_line(monkeypatch, capfd, settings, error):
    with jax_says(monkeypatch, error), pytest.raises(UserError) as raised:  # noqa: SIM117
        with distributed.initialize(settings):
            pytest.fail("it began")
    words = " ".join(str(error).split())
    assert str(raised.value).startswith(f"distributed.coordinator={settings.coordinator}: {words}")
    assert capfd.readouterr().err == ""


@pytest.mark.long
def test_processes_that_do_not_come_are_reported(tmp_path):
    arguments = "tests.joint", "look", "127.0.0.1:1", 2, 1, "2,1,1", 1, tmp_path, 5
    (process,) = together(lambda *_: arguments, 1, 1, tmp_path, tmp_path / "log")
    assert codes([process], 60) != [0]
    said = (tmp_path / "log.0").read_text()
    assert "at the start, where it waits for the others" in said
