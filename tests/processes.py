"""Processes of this machine that train as one, over the loopback."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from conftest import QUICK_COMPILATION, ROOT

Process = subprocess.Popen


def together(
    arguments: Callable[[str, int], Sequence],
    processes: int,
    devices: int,
    cache: pathlib.Path,
    log: pathlib.Path,
) -> list[Process]:
    """Starts `processes` processes with `devices` each; `arguments(address, i)` are of process i.

    What was compiled is kept in the folder `cache`; what process i says goes to the file `log`.i.
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
            started.append(Process(command, cwd=ROOT, env=environment, stdout=said, stderr=said))
    return started


def joining(address: str, processes: int, process: int, prefix: str = "") -> tuple[str, ...]:
    """The flags that make a command one of several processes."""
    if processes == 1:
        return ()
    return (
        f"--{prefix}distributed.coordinator={address}",
        f"--{prefix}distributed.processes={processes}",
        f"--{prefix}distributed.process={process}",
    )


def codes(processes: Sequence[Process], seconds: float = 600) -> list[int]:
    """The exit codes; what is left after `seconds` is a failure, and killed."""
    try:
        deadline = time.monotonic() + seconds
        return [process.wait(deadline - time.monotonic()) for process in processes]
    finally:
        for process in processes:
            process.kill()


def assert_reports(log: pathlib.Path, error: str) -> None:
    said = log.read_text()
    assert re.search(rf"^error: {error}", said, re.MULTILINE), said
