import pytest

from k3m_jax.parallel.accelerators import peak_flops


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(kind, flops):
    assert peak_flops(kind) == flops


def test_of_a_cpu_nothing_is_known():
    assert peak_flops("cpu") is None
