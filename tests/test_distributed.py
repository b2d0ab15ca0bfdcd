"""Processes of this machine that train as one, over the loopback."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import QUICK_COMPILATION, ROOT

from k3m_jax.data.building import BuildArguments, build
from k3m_jax.data.synthetic import make_catalogue
from k3m_jax.parallel import distributed
from k3m_jax.settings import Distributed, Mesh, UserError
from k3m_jax.training.metrics import METRICS, read_metrics
from k3m_jax.training.preemption import EXIT_PREEMPTED
from tests import joint

# More than two numbers have several sums: gradients of four processes are added up in another order
# than those of four devices of one, and Adam divides by their root (see test_step.py).
ROUNDING = {"rtol": 2e-3, "atol": 1e-5}
TIMEOUT = 15  # seconds that the short steps of `joint.look` may take; much for a busy machine
STEPS = 24


def together(arguments, processes, devices, cache, log):
    """Starts `processes` processes with `devices` each; `arguments(address, i)` are of process i.

    What process i says goes to the file `log`.i.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [f"--xla_force_host_platform_device_count={devices}", *QUICK_COMPILATION]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    started = []
    for i in range(processes):
        with open(f"{log}.{i}", "w") as said:
            command = [
                sys.executable,
                "-m",
                "tests.compiling_once",
                *map(str, arguments(address, i)),
            ]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
            )
    return started


def codes(processes, seconds=600):
    """The exit codes; what is left after `seconds` is a failure, and killed."""
    try:
        deadline = time.monotonic() + seconds
        return [process.wait(deadline - time.monotonic()) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What jax keeps of its compilations, for all processes of this module."""
    return tmp_path_factory.mktemp("compiled")


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

    # And the two go on as one does, though the rows of each lie apart in the batch.
    assert two["blocks"].tolist() == [0, 2]
    assert_as_one(two, joint.run(Mesh(1, 4, 1), 2, one))


def assert_as_one(several, one):
    assert several["first"] == one["first"]
    assert several["batches"].tolist() == one["batches"].tolist()
    np.testing.assert_allclose(several["losses"], one["losses"], **ROUNDING)
    np.testing.assert_allclose(several["ended"], one["ended"], **ROUNDING)


# The commands.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small catalogue as shards."""
    folder = tmp_path_factory.mktemp("products")
    make_catalogue(folder / "catalogue", products=60, seed=0, overlap=0.5, image_size=32)
    arguments = BuildArguments(
        "jsonl", str(folder / "catalogue"), str(folder / "shards"), image_size=96, patch_size=16
    )
    build(arguments)
    return folder


@pytest.fixture(scope="module")
def start(folder, cache):
    """Starts a run of two devices, by one process or by two that have one each."""

    def pretrain(name, processes):
        arguments = (
            "launch.pretrain",
            "--config=configs/quickstart.py:debug",
            f"--workdir={folder / name}",
            f"--config.data.sources={folder / 'shards'}",
            "--config.model.text.layers=1",
            "--config.model.image.layers=1",
            "--config.model.interactor.blocks=1",
            f"--config.training.steps={STEPS}",
            "--config.training.eval_every=0",
            "--config.training.checkpoint_every=5",  # under way when one is killed, or just done
        )
        return together(
            lambda address, i: (*arguments, *joining(address, processes, i, "config.")),
            *(processes, 2 // processes, cache, folder / name),
        )

    return pretrain


def joining(address, processes, process, prefix=""):
    if processes == 1:
        return ()
    return (
        f"--{prefix}distributed.coordinator={address}",
        f"--{prefix}distributed.processes={processes}",
        f"--{prefix}distributed.process={process}",
    )


@pytest.fixture(scope="module")
def whole(folder, start):
    """The metrics of a run of one process that nothing disturbed."""
    assert codes(start("whole", 1)) == [0], (folder / "whole.0").read_text()
    return (folder / "whole" / METRICS).read_bytes()


def step_of(workdir):
    lines = read_metrics(workdir / METRICS)
    return lines[-1]["step"] if lines else 0


def wait_for_steps(workdir, count, processes):
    """Until the run has written `count` more steps."""
    first = step_of(workdir)
    while step_of(workdir) < first + count:
        assert all(process.poll() is None for process in processes), "one ended too early"
        time.sleep(0.02)


@pytest.mark.slow
def test_one_is_told_and_all_save_the_same_step(folder, start, whole, cache):
    workdir = folder / "told"
    for told, number in ((1, signal.SIGTERM), (0, signal.SIGINT)):
        processes = start("told", 2)
        wait_for_steps(workdir, 6, processes)
        processes[told].send_signal(number)
        assert codes(processes) == [EXIT_PREEMPTED] * 2
        saved = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()]
        assert max(saved) == step_of(workdir) < STEPS
        assert "run the same command to go on" in (folder / "told.0").read_text()
        assert "run the same command" not in (folder / "told.1").read_text()
    assert codes(start("told", 2)) == [0, 0]
    assert (workdir / METRICS).read_bytes() == whole

    tables = []
    for processes in (1, 2):
        log = folder / f"evaluate{processes}"
        evaluation = together(
            lambda address, i, n=processes: (
                "launch.evaluate",
                f"--workdir={workdir}",
                *joining(address, n, i),
            ),
            *(processes, 2 // processes, cache, log),
        )
        assert codes(evaluation) == [0] * processes
        tables.append((workdir / "evaluation-valid.json").read_text())
    assert tables[0] == tables[1]
    assert "link MRR" in (folder / "evaluate2.0").read_text()
    assert "link MRR" not in (folder / "evaluate2.1").read_text()


@pytest.mark.slow
def test_where_one_is_killed_all_end_and_go_on_later(folder, start, whole):
    workdir = folder / "broken"
    for killed in (1, 0):  # the second time with it jax's service
        processes = start("broken", 2)
        wait_for_steps(workdir, 6, processes)
        processes[killed].kill()
        assert 0 not in codes(processes, 60)
        for i in range(2):
            assert_told(folder / f"broken.{i}", rf"process {i} of 2 died at .*\bstep \d+")
    assert codes(start("broken", 1)) == [0]  # one process goes on with what two have done
    assert (workdir / METRICS).read_bytes() == whole


def assert_told(log, error):
    said = log.read_text()
    assert re.search(rf"^error: {error}", said, re.MULTILINE), said


@pytest.mark.slow
def test_where_one_hangs_all_end_in_time(tmp_path, cache):
    """A process that is stopped still holds its connections: nothing fails, nothing moves."""
    processes = together(
        lambda address, i: (
            *("tests.joint", "look", address, 2, i, "2,1,1", 10_000, tmp_path, TIMEOUT),
        ),
        *(2, 1, cache, tmp_path / "log"),
    )
    while not (tmp_path / joint.BEGUN).exists():
        assert all(process.poll() is None for process in processes), "one ended too early"
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGSTOP)
    assert 0 not in codes(processes, TIMEOUT + 30)
    assert_told(tmp_path / "log.0", r"process 0 of 2 (died|stood) at step \d+")
    assert_told(tmp_path / "log.1", rf"process 1 of 2 stood at step \d+ for {TIMEOUT} s")


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
        with distributed.joined(Distributed()):
            assert distributed.leads()
        assert calls[0].keys() == {
            "initialization_timeout",
            "heartbeat_timeout_seconds",
            "shutdown_timeout_seconds",
        }


def test_off_asks_nobody(monkeypatch):
    with jax_says(monkeypatch, AssertionError()) as calls:
        with distributed.joined(Distributed("off")):
            assert distributed.leads()
        assert not calls


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (Distributed(), ValueError("Number of processes must be defined.")),
        (Distributed("host:1", 4, 3), RuntimeError("address in use\nor not")),
    ],
)
def test_a_start_that_fails_is_one_line(monkeypatch, capfd, settings, error):
    with jax_says(monkeypatch, error), pytest.raises(UserError) as told:  # noqa: SIM117
        with distributed.joined(settings):
            pytest.fail("it began")
    words = " ".join(str(error).split())
    assert str(told.value).startswith(f"distributed.coordinator={settings.coordinator}: {words}")
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_others_that_do_not_come_are_told(tmp_path):
    arguments = "tests.joint", "look", "127.0.0.1:1", 2, 1, "2,1,1", 1, tmp_path, 5
    (process,) = together(lambda *_: arguments, 1, 1, tmp_path, tmp_path / "log")
    assert codes([process], 60) != [0]
    said = (tmp_path / "log.0").read_text()
    assert "at the start, where it waits for the others" in said
