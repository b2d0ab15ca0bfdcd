"""What every test shares: eight simulated CPU devices and the path of the shared data."""

import importlib.metadata
import os
import pathlib

import pytest

# Tests compile much and compute little: half the time goes without LLVM's optimisations, which
# change nothing that is computed, and half of the rest with the older of XLA's two ways to emit a
# fusion. XLA ends a process whose flags it does not know, and newer ones have one way alone.
QUICK_COMPILATION = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in ("--xla_force_host_platform_device_count=8", *QUICK_COMPILATION):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What was compiled serves all workers, the commands that tests start, and the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import k3m_jax.reproductions  # noqa: E402, F401  (registers the preset `release`)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real products and golden values, `$K3M_SHARED`; skips where it is absent."""
    path = pathlib.Path(os.environ.get("K3M_SHARED", ROOT.parent / "shared")).resolve()
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path}: set K3M_SHARED to its folder")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    """What jax keeps of its compilations, for all processes that a module starts."""
    return tmp_path_factory.mktemp("compiled")
