"""A training step against the machine's own matrix product."""

import dataclasses
from typing import Any

import jax

from k3m_jax.benchmarks import batches as made
from k3m_jax.benchmarks.timing import Timed, in_turns, matrix_product, median, timed
from k3m_jax.compile_check.hlo import Module
from k3m_jax.compile_check.kernels import matrix_flops, memory_bytes
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Settings
from k3m_jax.training.flops import texts, training_flops
from k3m_jax.training.trainer import Trainer

OURS, PEAK = "this library", "matrix product"


def measure_step(
    settings: Settings,
    batches: list[made.Arrays],
    runs: int,
) -> dict[str, Any]:
    """Seconds, rates, memory and ratios of the training step, timed in turns.

    Args:
      settings: resolved, `packing` too.
      batches: padded (`benchmarks.batches`), taken in turn.
      runs: timed calls of each.
    """
    program = Trainer(Network(settings), make_mesh(settings.mesh))
    packed = made.packed(settings, batches)
    placed = [program.place(batch) for batch in packed]
    state, count = program.init(), 0

    def step() -> Timed:
        nonlocal state, count
        batch = placed[count % len(placed)]
        count += 1

        def call() -> Any:
            nonlocal state
            state, metrics = program.step(state, batch)
            return metrics

        return timed(call)

    product, product_flops = matrix_product(settings.model.dtype)
    for batch in placed:  # each shape is compiled before anything is timed
        state, metrics = program.step(state, batch)
        jax.block_until_ready(metrics)
    found = {n: median(x) for n, x in in_turns({OURS: step, PEAK: product}, runs).items()}
    size = settings.training.batch
    real, slots = (sum(x) for x in zip(*map(made.real_tokens, packed), strict=True))
    compiled = program.lower().compile()
    memory, module = compiled.memory_analysis(), Module.parse(compiled.as_text())
    flops = training_flops(settings)
    # Of the text encoder alone: the rest computes what it computes.
    of_real = flops - 6 * texts(settings) * (1 - real / slots)
    peak, ours = product_flops / found[PEAK].wall, found[OURS]
    return {
        "batch": size,
        "preset": settings.model.preset,
        "packing": dataclasses.asdict(settings.packing),
        "real_text_tokens": real / slots,
        "step_seconds": ours.wall,
        "step_cpu_seconds": ours.cpu,
        "items_per_second": size / ours.wall,
        "flops_per_item": flops,
        "compiled_flops_per_item": matrix_flops(module) / size,
        "compiled_bytes_per_item": memory_bytes(module) / size,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "peak_flops": peak,
        "mfu_by_slots": flops * size / ours.wall / peak / len(program.mesh.devices.flat),
        "mfu_by_real_tokens": of_real * size / ours.wall / peak / len(program.mesh.devices.flat),
    }
