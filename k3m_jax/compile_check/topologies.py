"""Device topologies to compile for that this machine does not have."""

import contextlib
import importlib.resources
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from k3m_jax.compile_check.accelerators import Chip, find_chip
from k3m_jax.settings import UserError

_TPUS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
_GPUS = {"h100": "NVIDIA H100 80GB HBM3"}
_FORM = "v5e:16x16, v5p:4x4x8, h100:8 or cpu:8"
_GPU_HOST = 8

# This machine is not a TPU VM: libtpu must not wait for a metadata server, warn about an unknown
# host or chip (any will do, only the topology matters), or lock out other compiling processes.
_NO_TPU_VM = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# Autotuning would run kernels on the missing GPU, and Triton's matrix products need autotuning.
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}


class Topology(NamedTuple):
    """Devices that programs can be compiled for but not run on.

    Attributes:
      name: as the user gave it, with the number of slices where there are several.
      devices: in no particular order; `make_mesh` arranges them.
      chip: figures of the named device; None for a CPU.
      compiler: "tpu", "cuda", or "cpu" if that device's own compiler is not installed.
      options: of the compiler.
    """

    name: str
    devices: list[Any]
    chip: Chip | None
    compiler: str
    options: Mapping[str, Any]


def open_topology(name: str, slices: int = 1) -> Topology:
    """The devices of "v5e:16x16" (a slice of TPUs), "h100:8" (a host of GPUs) or "cpu:8".

    `slices` is the number of such TPU slices, connected by their hosts' network.

    Without the TPU's compiler (libtpu) or the GPU's (jax's CUDA plugin) the result is as many
    simulated CPU devices. Call it before anything else in the process uses a device.

    Raises:
      UserError: no such topology.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind, sizes = (found.group(1), found.group(2)) if found else ("", "")
    if kind not in (*_TPUS, *_GPUS, "cpu") or (kind not in _TPUS and "x" in sizes):
        raise UserError(f"--topology={name}: expected a form like {_FORM}")
    count = math.prod(map(int, sizes.split("x")))
    if not count or (kind in _GPUS and count > _GPU_HOST):
        raise UserError(f"--topology={name}: expected 1 to {_GPU_HOST} GPUs, those of one host")
    if slices < 1 or (slices > 1 and kind not in _TPUS):
        raise UserError(f"--slices={slices}: expected 1, or for TPUs any number of slices")
    full_name = name if slices == 1 else f"{slices} slices of {name}"
    if kind in _TPUS and importlib.util.find_spec("libtpu"):
        return Topology(full_name, _tpu_devices(name, slices), find_chip(_TPUS[kind]), "tpu", {})
    if kind in _GPUS and _has_cuda():
        chip = find_chip(_GPUS[kind])
        return Topology(name, _gpu_devices(kind, count), chip, "cuda", _GPU_OPTIONS)
    chip = find_chip(_TPUS.get(kind) or _GPUS.get(kind, "cpu"))
    return Topology(full_name, _cpu_devices(slices * count), chip, "cpu", {})


def _tpu_devices(name: str, slices: int) -> list[Any]:
    for variable, value in _NO_TPU_VM.items():
        os.environ.setdefault(variable, value)
    _only_cpus()
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=name, num_slices=slices
        ).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={name}: the TPU compiler refuses it: {reason}") from error


def _has_cuda() -> bool:
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def _gpu_devices(kind: str, count: int) -> list[Any]:
    _only_cpus()
    facts = importlib.resources.files("k3m_jax.compile_check") / "targets" / f"{kind}.txtpb"
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology=f"1x1x{count}",
        target_config=facts.read_text(encoding="utf-8"),
    ).devices


def _cpu_devices(count: int) -> list[Any]:
    _only_cpus()
    # If devices are in use already, as in a test, their number is fixed.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"{count} CPU devices are needed, but this process has {len(devices)}")
    return devices[:count]


def _only_cpus() -> None:
    """Constants and other values computed while compiling need no accelerator."""
    jax.config.update("jax_platforms", "cpu")
