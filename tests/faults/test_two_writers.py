"""Two processes that write to one folder: the second is refused, a dead one is replaced."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from k3m_jax.data.build.local import build
from k3m_jax.data.store import lock
from k3m_jax.settings import UserError
from tests.troubled import arguments, write_catalog

HOLD = """
import sys, time
from k3m_jax.data.store import lock
with lock.hold(sys.argv[1], "--workdir"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def other_process(path):
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_and_a_killed_one_replaced(tmp_path, capsys):
    path = tmp_path / "run" / "run.lock"
    with other_process(path) as process:
        with (
            pytest.raises(lock.FolderInUseError, match=f"--workdir: .* process {process.pid} on"),
            lock.hold(path, "--workdir"),
        ):
            pass
        assert json.loads(path.read_text())["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock.hold(path, "--workdir"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert f"process {process.pid}" in capsys.readouterr().err
    assert not path.exists()


def test_one_process_twice(tmp_path):
    with lock.hold(tmp_path / "x.lock", "--output"):
        with pytest.raises(lock.FolderInUseError), lock.hold(tmp_path / "x.lock", "--output"):
            pass
        assert (tmp_path / "x.lock").exists()
    with lock.hold(tmp_path / "x.lock", "--output"):
        pass


@pytest.mark.parametrize("content", ['{"pid": 7, "host": "other", "machine": "m"}', "", "[]", "{"])
def test_the_lock_of_another_machine(tmp_path, monkeypatch, content):
    """Replaced where it is not touched for a while, respected where it is."""
    monkeypatch.setattr(lock, "PATIENCE", 0.4)
    path = tmp_path / "x.lock"
    path.write_text(content)
    ended = threading.Event()

    def touch():
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(lock.FolderInUseError), lock.hold(path, "--workdir"):
            pass
    finally:
        ended.set()
        thread.join()
    assert path.read_text() == content
    with lock.hold(path, "--workdir"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_number_that_another_process_has_now(tmp_path):
    path = tmp_path / "x.lock"
    owner = lock._myself() | {"pid": os.getppid(), "started": "1"}
    path.write_text(json.dumps(owner))
    with lock.hold(path, "--workdir"):
        pass


def test_it_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "REFRESH", 0.02)
    path = tmp_path / "x.lock"
    with lock.hold(path, "--workdir"):
        before = path.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize("where", ["file", "below_file"])
def test_where_nothing_can_be_written(tmp_path, where):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if where == "file" else tmp_path / "file" / "run"
    with (
        pytest.raises(UserError, match=r"--workdir: .* can't be written"),
        lock.hold(folder / "run.lock", "--workdir"),
    ):
        pass


def test_two_builds_of_one_output(tmp_path):
    write_catalog(tmp_path / "dump")
    wanted = arguments(tmp_path / "dump", tmp_path / "data")
    with (
        lock.hold(tmp_path / "data" / "k3m_products-patches.lock", "--output"),
        pytest.raises(lock.FolderInUseError),
    ):
        build(wanted)
    assert build(wanted).info.products
    assert not list((tmp_path / "data").glob("*.lock"))
