"""The table that `launch.compile_check` prints."""

from k3m_jax.compile_check.check import GIB, Check

_COMPILERS = {"tpu": "the TPU's compiler", "cuda": "the GPU's compiler"}


def table(check: Check) -> str:
    """One figure per line, with the value that it is compared with."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in check.mesh.items())
    compiler = _COMPILERS.get(check.compiler, "SIMULATED CPU DEVICES, whose figures are not the")
    lines = [
        f"{check.topology} by {compiler}" + ("" if check.compiler in _COMPILERS else " chip's own"),
        *_rows(
            ("mesh", mesh),
            (
                "batch",
                f"{check.batch:,} items, {check.rows_per_device:g} per device, in "
                f"{check.accumulation} micro-batches",
            ),
            (
                "layers",
                f"{'one by one' if check.unroll else 'in loops'}, remat "
                f"{'on' if check.remat else 'off'}",
            ),
            (
                "parameters",
                f"{check.parameters:,} ({check.vocabulary:,} tokens, {check.classes:,} classes)",
            ),
        ),
        "",
        "each device, in one step",
        *_rows(
            ("arguments", f"{check.argument_bytes / GIB:.2f} GiB (state and batch)"),
            ("temporaries", f"{check.temporary_bytes / GIB:.2f} GiB"),
            ("total", f"{check.total_bytes / GIB:.2f} GiB{_of_memory(check)}"),
            (
                "FLOPs",
                f"{check.flops / 1e12:.3f} T, {check.flops / check.model_flops:.3f} x the model's "
                f"own {check.model_flops / 1e12:.3f} T",
            ),
            ("memory traffic", f"{check.moved_bytes / 1e9:.2f} GB"),
            *(
                (kind, f"{each.times} times, {each.sent / 1e6:.1f} MB sent")
                for kind, each in check.collectives.items()
            ),
            ("sent in all", f"{check.sent_bytes / 1e6:.1f} MB{_of_fsdp(check)}"),
            ("gathered again", _gathered_again(check)),
        ),
    ]
    if check.bound:
        # A GPU's caches absorb some of the traffic between kernels.
        rough = check.compiler == "cuda" and check.bound == "memory"
        least, most = (", about",) * 2 if rough else (", at least", ", at most")
        lines += [
            "",
            f"estimated from {check.chip_source}",
            *_rows(
                *(
                    (part, f"{1e3 * check.seconds(part):.2f} ms")
                    for part in ("compute", "memory", "interconnect")
                ),
                ("step" + least, f"{1e3 * check.step_seconds:.2f} ms, bound by {check.bound}"),
                ("items/s" + most, f"{check.items_per_second:,.0f}"),
                ("MFU" + most, f"{check.mfu:.1%}"),
            ),
        ]
    return "\n".join(lines)


def _rows(*rows: tuple[str, str]) -> list[str]:
    return [f"  {name:<18}{value}" for name, value in rows]


def _of_memory(check: Check) -> str:
    if check.memory_bytes is None:
        return ""
    return f" of {check.memory_bytes / GIB:.2f} GiB, {check.total_bytes / check.memory_bytes:.0%}"


def _of_fsdp(check: Check) -> str:
    if not check.fsdp_bytes:
        return ""
    ratio = check.sent_bytes / check.fsdp_bytes
    return f", {ratio:.3f} x what FSDP needs, {check.fsdp_bytes / 1e6:.1f} MB"


def _gathered_again(check: Check) -> str:
    """Parameters gathered more than once in each forward and each backward pass."""
    if not check.gathered_again:
        return "no parameter"
    return ", ".join(f"{name} {times:g} times" for name, times in check.gathered_again.items())
