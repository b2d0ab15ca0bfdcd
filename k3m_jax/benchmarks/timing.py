"""Timing in turns, and what the machine is and can do."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PACKAGES = ("k3m_jax", "jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")
SIDE = 2048  # of the square matrices whose product gives the peak


class Timed(NamedTuple):
    """Seconds of one call: on the clock, and of all threads of this process."""

    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> Timed:
    """Runs `call` to the end of what it dispatches."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return Timed(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(calls: Mapping[str, Callable[[], Timed]], runs: int) -> dict[str, list[Timed]]:
    """Runs each of `calls` once, then all of them `runs` times in turn; the first is not counted.

    So whatever else the machine does slows all of them alike.
    """
    for call in calls.values():
        call()
    found: dict[str, list[Timed]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            found[name].append(call())
    return found


def median(times: Sequence[Timed]) -> Timed:
    """Of each kind of seconds."""
    return Timed(*(statistics.median(values) for values in zip(*times, strict=True)))


def matrix_product(dtype: str) -> tuple[Callable[[], Timed], float]:
    """A product of square matrices to be timed, and its FLOPs: what the device can do."""
    x = jax.random.normal(jax.random.key(0), (SIDE, SIDE)).astype(dtype)
    product = jax.jit(jnp.matmul)
    return lambda: timed(lambda: product(x, x)), 2.0 * SIDE**3


def machine() -> dict[str, Any]:
    """The machine, the versions, and how busy it is: with a load, ratios alone can be trusted."""
    device = jax.devices()[0]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from its folder"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor()
