"""What one accelerator can do, from its maker's public documentation."""

from typing import NamedTuple

from k3m_jax.parallel.accelerators import PEAK_FLOPS

_TPU = "Google Cloud documentation, TPU {}: system architecture"
_GPU = "NVIDIA {} data sheet"
_GIB = 2**30  # makers write GB


class Chip(NamedTuple):
    """Peak figures of one device."""

    kind: str  # a key of PEAK_FLOPS
    memory: float  # bytes
    bandwidth: float  # of that memory, bytes/s
    # Bytes/s that it sends in an exchange among neighbours: on a TPU both ways round one axis of
    # the torus (a quarter or a sixth of its ports each way), on a GPU through the NVLink switch.
    interconnect: float
    source: str

    @property
    def flops(self) -> float:
        """FLOP/s of dense bfloat16 matrix products."""
        return PEAK_FLOPS[self.kind]


# The first line whose kind fits counts.
CHIPS = (
    Chip("TPU v4", 32 * _GIB, 1200e9, 100e9, _TPU.format("v4")),
    Chip("TPU v5 lite", 16 * _GIB, 819e9, 100e9, _TPU.format("v5e")),
    Chip("TPU v5e", 16 * _GIB, 819e9, 100e9, _TPU.format("v5e")),
    Chip("TPU v5", 95 * _GIB, 2765e9, 200e9, _TPU.format("v5p")),
    Chip("TPU v6", 32 * _GIB, 1638e9, 200e9, _TPU.format("v6e")),
    Chip("NVIDIA A100", 80 * _GIB, 2039e9, 300e9, _GPU.format("A100 80GB SXM")),
    Chip("NVIDIA H100 PCIe", 80 * _GIB, 2000e9, 300e9, _GPU.format("H100 PCIe")),
    Chip("NVIDIA H100", 80 * _GIB, 3350e9, 450e9, _GPU.format("H100 SXM")),
    Chip("NVIDIA H200", 141 * _GIB, 4800e9, 450e9, _GPU.format("H200 SXM")),
)


def find_chip(device_kind: str) -> Chip | None:
    """By what jax calls a device; None where its figures are not known, as of a CPU."""
    return next((chip for chip in CHIPS if device_kind.startswith(chip.kind)), None)
