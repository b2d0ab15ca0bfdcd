"""What one accelerator computes at most, from its maker's public documentation."""

# FLOP/s of dense bfloat16 matrix products, by how jax's name of the device begins; the first fits.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """By what jax calls a device; None where it is not known, as of a CPU."""
    return next((x for kind, x in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)
