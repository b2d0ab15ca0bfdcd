"""The switches of `settings.Debug`, set before jax touches a device."""

import os

import jax

from k3m_jax import settings


def configure_jax_debug(debug: settings.Debug) -> None:
    """Sets flags of jax and XLA; without effect on a device that jax has already started."""
    jax.config.update("jax_debug_nans", debug.nans)
    jax.config.update("jax_disable_jit", debug.disable_jit)
    if debug.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    if debug.memory_fraction:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(debug.memory_fraction)
