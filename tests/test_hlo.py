"""FLOPs, bytes and collectives of small compiled programs, for which they are known."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from k3m_jax.compile_check.collectives import (
    find_collectives,
    gathers_per_parameter,
    needed_by_fsdp,
)
from k3m_jax.compile_check.hlo import Module
from k3m_jax.compile_check.kernels import matrix_flops, memory_bytes
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Mesh

LAYERS, ROWS, WIDTH = 5, 16, 32


class State(NamedTuple):
    params: dict


def forward(state, x):
    """A scan of matrix products, inside a scan of two iterations."""

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def iteration(x, _):
        return jax.lax.scan(layer, x, state.params["w"])[0], None

    return jax.lax.scan(iteration, x, None, length=2)[0]


def test_flops_of_nested_loops_are_multiplied_by_trip_counts():
    shapes = State({"w": jnp.zeros((LAYERS, WIDTH, WIDTH))}), jnp.zeros((ROWS, WIDTH))
    compiled = jax.jit(forward).lower(*shapes).compile()
    flops = matrix_flops(Module.parse(compiled.as_text()))
    assert flops == 2 * LAYERS * 2 * ROWS * WIDTH * WIDTH


@pytest.fixture(scope="module")
def sharded():
    """Collectives of the gradient of layers whose rows are sharded over four of eight devices."""
    mesh = make_mesh(Mesh(data=2, fsdp=4, tensor=1))
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    parts = NamedSharding(mesh, P(None, "fsdp"))
    state = State({"w": jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=parts)})
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=rows)

    def loss(state, x):
        def layer(x, w):
            x = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows)
            return x, None

        return (jax.lax.scan(layer, x, state.params["w"])[0] ** 2).sum()

    step = jax.jit(jax.grad(loss), out_shardings=State({"w": parts}))
    module = Module.parse(step.lower(state, x).compile().as_text())
    return mesh, state, find_collectives(module, mesh.size)


def test_gathers_of_parameters_are_attributed_to_them(sharded):
    _, _, collectives = sharded
    gathers = [c for c in collectives if c.gathered]
    assert {(c.kind, c.group, c.times) for c in gathers} == {("all-gather", 4, LAYERS)}
    assert all(c.bytes == 4 * WIDTH * WIDTH for c in gathers)
    assert all(c.sent == LAYERS * c.bytes * 3 / 4 for c in gathers)
    # Once for the forward and once for the backward pass.
    times = gathers_per_parameter(collectives)
    assert times == {"state.params['w']": pytest.approx(2)}


def test_bytes_needed_by_fsdp(sharded):
    mesh, state, _ = sharded
    size = 4 * LAYERS * WIDTH * WIDTH
    # Two gathers and a reduce-scatter over four devices, and an all-reduce of a shard over two.
    needed = 3 * size * 3 / 4 + 2 * size / 4 / 2
    assert needed_by_fsdp(state.params, mesh, itemsize=4) == pytest.approx(needed)


def program(*lines, computations=""):
    body = "\n".join(f"  {line}" for line in lines)
    return Module.parse(f"HloModule m\n\n{computations}\nENTRY %main () -> f32[] {{\n{body}\n}}\n")


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a','b'}", 8),
        ("replica_groups={}", 8),
    ],
)
def test_all_notations_of_replica_groups_are_parsed(groups, size):
    module = program(
        "%p = f32[16]{0} parameter(0)",
        f"ROOT %r = f32[16]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add",
    )
    (collective,) = find_collectives(module, 8)
    assert collective.group == size
    assert collective.sent == 2 * 64 * (size - 1) / size


def test_a_split_collective_counts_once_and_a_reduce_scatter_is_recognised_by_its_kernel():
    module = program(
        "%p = bf16[64]{0} parameter(0)",
        "%a = bf16[128]{0} fusion(%p), kind=kCustom, calls=%piece",
        "%b = bf16[128]{0} fusion(%p), kind=kCustom, calls=%piece.1",
        "ROOT %c = bf16[64]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1",
        computations="\n".join(
            f"""%{name} (q: bf16[64]) -> bf16[128] {{
  %q = bf16[{n}]{{0}} parameter(0)
  ROOT %g = bf16[128]{{0}} {op}(%q), channel_id={channel}, replica_groups=[4,2]<=[8]
}}
"""
            for name, n, op, channel in (
                ("piece", 64, "all-gather", 7),
                ("piece.1", 64, "all-gather", 7),
                ("all-reduce-scatter.1", 128, "all-reduce", 8),
            )
        ),
    )
    collectives = find_collectives(module, 8)
    assert [(c.kind, c.bytes, c.times) for c in collectives] == [
        ("all-gather", 256, 1),
        ("reduce-scatter", 256, 1),
    ]


def test_flops_of_a_matrix_product_written_as_a_convolution():
    """A TPU's form of [B, S, D] x [D, H, K]: one of eight window positions is not padding."""
    module = program(
        "%x = bf16[16,37,1024]{2,1,0:T(8,128)(2,1)} parameter(0)",
        "%w = bf16[1024,8,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)",
        "%y = bf16[16,1,37,1024]{3,2,1,0} reshape(%x)",
        "%v = bf16[1,1024,8,128]{3,2,1,0} reshape(%w)",
        "ROOT %c = bf16[16,37,8,128]{3,1,2,0} convolution(%y, %v), "
        "window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, dim_labels=b10f_0i1o->b01f",
    )
    # The labels above put the 37 positions along 0 and the heads along 1.
    assert matrix_flops(module) == 2 * 16 * 37 * 1024 * 8 * 128


def test_flops_of_a_convolution_exclude_padding():
    layout = ("NWC", "WIO", "NWC")
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding=[(1, 1)],
        dimension_numbers=layout,
    )
    shapes = jnp.zeros((2, 10, 4)), jnp.zeros((3, 4, 6))
    text = jax.jit(convolve).lower(*shapes).compile().as_text()
    taps = 3 * 10 - 2  # one tap at each end is padding
    assert matrix_flops(Module.parse(text)) == 2 * 2 * taps * 4 * 6


def test_a_kernel_on_a_stack_of_layers_moves_one_slice():
    module = program(
        "%p = f32[100,64]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "ROOT %f = f32[100,64]{1,0} fusion(%p, %i), kind=kLoop, calls=%update",
        computations="""%update (a: f32[100,64], j: s32[]) -> f32[100,64] {
  %a = f32[100,64]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,64]{1,0} dynamic-slice(%a, %j, %zero), dynamic_slice_sizes={1,64}
  %more = f32[1,64]{1,0} exponential(%row)
  ROOT %u = f32[100,64]{1,0} dynamic-update-slice(%a, %more, %j, %zero)
}
""",
    )
    assert memory_bytes(module) == 2 * 64 * 4 + 4  # a row in, a row out, and its index


def test_a_loop_without_a_trip_count_is_an_error():
    module = program(
        "%p = s32[] parameter(0)",
        "ROOT %w = s32[] while(%p), condition=%c, body=%b",
        computations="""%b (q: s32[]) -> s32[] {
  ROOT %q = s32[] parameter(0)
}

%c (r: s32[]) -> pred[] {
  %r = s32[] parameter(0)
  ROOT %ne = pred[] compare(%r, %r), direction=NE
}
""",
    )
    with pytest.raises(ValueError, match="trip count of the loop w"):
        list(module.sites())


def test_dtypes_of_four_bits():
    module = program("ROOT %p = s4[3,4]{1,0} parameter(0)")
    assert np.isclose(module.entry.root.arrays[0].bytes, 6)
