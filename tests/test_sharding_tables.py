"""How every parameter lies on the devices, as tables to read in review: golden/shardings_*.txt."""

import jax
import pytest
from conftest import ROOT
from tiny import TINY, tiny_compiled, tiny_program

MESHES = {"fsdp": (2, 4, 1), "fsdp_tensor": (2, 2, 2)}


def written(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def table(params, shardings):
    """A line per parameter: its name, its shape, and the mesh axis that cuts each dimension."""
    lines = []
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    ):
        shape = "x".join(map(str, leaf.shape))
        axes = " ".join(axis or "-" for axis in sharding.spec)
        lines.append(f"{written(path):<56}{shape:<14}{axes}\n")
    return "".join(lines)


@pytest.mark.parametrize("name", MESHES)
def test_every_parameter_lies_where_the_table_says(name):
    params = tiny_program(TINY, *MESHES[name]).abstract_state.params
    found = table(params, jax.tree.map(lambda leaf: leaf.sharding, params))
    golden = ROOT / "tests" / "golden" / f"shardings_{name}.txt"
    assert found == golden.read_text(), (
        f"a parameter, a logical name or a rule has changed; if that is meant, write to {golden}:\n"
        + found
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_the_compiled_step_takes_and_returns_them_so(name):
    program = tiny_program(TINY, *MESHES[name])
    expected = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)
    compiled = tiny_compiled(*MESHES[name])
    (_, before, _), _ = compiled.input_shardings  # of the seed, the state and the batch
    after, _ = compiled.output_shardings
    for state in (before, after):
        for found, sharding, leaf in zip(
            *map(jax.tree.leaves, (state, expected, program.abstract_state)), strict=True
        ):
            assert found.is_equivalent_to(sharding, leaf.ndim)
