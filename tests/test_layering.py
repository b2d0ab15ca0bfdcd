"""Imports point one way, without circles; this walks the syntax tree of every module once."""

import ast
import graphlib
import sys

from tests.conftest import ROOT

# From the top to the bottom: a package may import itself and those below. The annexes lie above
# the core, so that the core never imports them.
ANNEXES = (
    "k3m_jax.applications",
    "k3m_jax.benchmarks",
    "k3m_jax.sweeps",
    "k3m_jax.compile_check",
    "k3m_jax.reproductions",
    "k3m_jax.synthetic_shop",
)
LAYERS = (
    "k3m_jax.__main__",
    "launch",
    "configs",
    *ANNEXES,
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
    "k3m_jax.data.catalog",
    "k3m_jax.data.store",
    "k3m_jax.data.records",
    "k3m_jax.data.workers",
    "k3m_jax.metrics",
    "k3m_jax.modalities",
    "k3m_jax.settings",
)
# Packages that only some rooms may import: the rooms, by package.
RESTRICTED = {
    "flax": ("k3m_jax.model", "k3m_jax.reproductions"),
    "ml_collections": ("launch", "configs", "k3m_jax.settings"),
}
NO_JAX = ("jax", "flax", "optax", "orbax")  # which k3m_jax.data does not import itself
LAUNCH_LINES = 60  # of an entry point
CLI_LINES = 200  # of what they share


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_name(path): path
    for top in ("launch", "configs", "k3m_jax")
    for path in (ROOT / top).rglob("*.py")
}


def within(name, package):
    return f"{name}.".startswith(f"{package}.")


def imports(path):
    """Modules that a file imports, wherever in it, but for its annotations alone."""
    nodes, names = [ast.parse(path.read_text(encoding="utf-8"))], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + (node.module or "")} if node.level else set()
            # `from k3m_jax import settings` imports a module, `from k3m_jax.x import f` does not.
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            names |= {name if name in PATHS else node.module for name in inner}
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        nodes += node.orelse if only_types else ast.iter_child_nodes(node)
    return names


def layer(name):
    """Index in `LAYERS`; None for `k3m_jax`, empty packages of layers, and other packages."""
    return next((i for i, package in enumerate(LAYERS) if within(name, package)), None)


def problems_of(module, path, found):
    """What is wrong with the imports of a module, in words."""
    own = layer(module)
    if own is None and path.name != "__init__.py":
        yield "is in no layer"
    for name in found:
        top, imported = name.split(".")[0], layer(name)
        if own is not None and imported is not None and imported < own:
            yield f"imports {name}, which lies above it"
        if name.startswith("."):
            yield f"has a relative import, {name}"
        if top in RESTRICTED and not any(within(module, room) for room in RESTRICTED[top]):
            yield f"imports {name}"
        if top in NO_JAX and within(module, "k3m_jax.data"):
            yield f"imports {name}"
        if within(module, "k3m_jax.modalities"):
            own_room = name in PATHS and within(name, "k3m_jax.modalities")
            settings = path.name == "__init__.py" and within(name, "k3m_jax.settings")
            if (
                not own_room
                and not settings
                and top
                not in {
                    *sys.stdlib_module_names,
                    "numpy",
                    "PIL",
                }
            ):
                yield f"imports {name}: an exported folder has NumPy and Pillow alone"
    if path.parent.name == "launch":
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= (CLI_LINES if path.name == "cli.py" else LAUNCH_LINES):
            yield f"has {lines} lines: move what it does into k3m_jax/"


def test_imports_point_down_without_circles():
    graph = {module: imports(path) for module, path in PATHS.items()}
    problems = [
        f"{module} {problem}"
        for module, found in graph.items()
        for problem in problems_of(module, PATHS[module], found)
    ]
    assert not problems, "\n".join(problems)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
