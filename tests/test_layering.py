"""Imports point one way only; this walks the syntax tree of every module to keep it so."""

import ast
import functools

import pytest
from conftest import ROOT

# From the top to the bottom: a package may import itself and those below.
LAYERS = (
    "launch",
    "configs",
    "k3m_jax.sweeps",
    "k3m_jax.compile_check",
    "k3m_jax.reproductions",
    "k3m_jax.synthetic_shop",
    "k3m_jax.serving",
    "k3m_jax.runs",
    "k3m_jax.evaluation",
    "k3m_jax.training",
    "k3m_jax.pretrained",
    "k3m_jax.model",
    "k3m_jax.parallel",
    "k3m_jax.data.build",
    "k3m_jax.data.input",
    "k3m_jax.tasks",
    "k3m_jax.objectives",
    "k3m_jax.data.corruption",
    "k3m_jax.data.store",
    "k3m_jax.data.catalog",
    "k3m_jax.data.records",
    "k3m_jax.metrics",
    "k3m_jax.modalities",
    "k3m_jax.settings",
)
MODULES = sorted(
    path for top in ("launch", "configs", "k3m_jax") for path in (ROOT / top).rglob("*.py")
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name):
    """Index in `LAYERS`; None for what is no part of them (`k3m_jax` itself, other packages)."""
    for index, prefix in enumerate(LAYERS):
        if name == prefix or name.startswith(prefix + "."):
            return index
    return None


@functools.cache
def imports(path):
    """Full names of all modules that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # `from k3m_jax import settings` imports a module, `from k3m_jax.x import f` does not.
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importers(*packages):
    return {
        module_name(path)
        for path in MODULES
        if any(name.split(".")[0] in packages for name in imports(path))
    }


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path):
    own = layer(module_name(path))
    for name in imports(path):
        imported = layer(name)
        if own is not None and imported is not None:
            assert imported >= own, f"{module_name(path)} imports {name}, which lies above it"


def test_data_imports_no_jax():
    assert not {name for name in importers("jax", "flax", "optax", "orbax") if ".data" in name}


def test_flax_is_seen_by_the_model_and_the_shardings_alone():
    allowed = {"k3m_jax.parallel.shardings"}
    assert {n for n in importers("flax") if not n.startswith("k3m_jax.model.")} == allowed


def test_config_objects_stay_above_training():
    """Below, sub-dataclasses and plain values are passed."""
    assert {n for n in importers("ml_collections") if not n.startswith(("launch", "configs"))} == {
        "k3m_jax.settings"
    }


def test_entry_points_only_wire():
    for path in (ROOT / "launch").glob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < 80, f"{path.name} has {lines} lines: move what it does into k3m_jax/"
