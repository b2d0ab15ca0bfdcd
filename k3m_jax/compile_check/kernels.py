"""What the kernels of a compiled program compute and move: FLOPs and bytes of device memory."""

import json
import math
import re

import numpy as np

from k3m_jax.compile_check.hlo import Computation, Instruction, Module, Site

# Opcodes without memory traffic: names, aliases, control flow, ends of asynchronous operations.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "async-done",
    "async-update",
}  # fmt: skip
_READS_A_PART = {"dynamic-slice", "slice", "gather"}


def matrix_flops(module: Module) -> float:
    """FLOPs of matrix products and convolutions of one device, each as often as it runs.

    A multiply and an add are two. Elementwise work is not counted, like in `training.flops`.
    """
    return float(sum(site.times * _flops(site) for site in module.sites()))


def memory_bytes(module: Module) -> float:
    """Bytes that kernels read from and write to the memory of one device.

    Inside a loop over stacked layers, a kernel moves one layer's slice. Data in a TPU's on-chip
    memory is not counted. Caches are ignored, so this is an upper bound on a GPU.
    """
    return float(
        sum(site.times * _moved(module, site) for site in module.sites() if not _inside(site))
    )


def _inside(site: Site) -> bool:
    while site.caller is not None:
        if site.in_fusion:
            return True
        site = site.caller
    return False


def _flops(site: Site) -> float:
    instruction = site.instruction
    if instruction.opcode == "dot":
        contracted = instruction.attribute("lhs_contracting_dims").strip("{}").split(",")
        return _dot_flops(site, contracted)
    if instruction.opcode == "convolution":
        return _convolution_flops(site)
    if instruction.opcode == "custom-call" and "dot_dimension_numbers" in instruction.attributes:
        config = json.loads(instruction.attribute("backend_config"))
        gemm = next(v for v in config.values() if isinstance(v, dict) and _DIMENSIONS in v)
        return _dot_flops(site, gemm[_DIMENSIONS]["lhs_contracting_dimensions"])
    return 0.0


_DIMENSIONS = "dot_dimension_numbers"


def _dot_flops(site: Site, contracted: list[str]) -> float:
    (lhs,) = site.operands()[0].arrays
    return 2.0 * site.instruction.arrays[0].size * math.prod(lhs.shape[int(i)] for i in contracted)


def _convolution_flops(site: Site) -> float:
    """Includes matrix products written as convolutions (TPU), whose window is mostly padding."""
    instruction = site.instruction
    (lhs,), (kernel,) = (operand.arrays for operand in site.operands()[:2])
    out = instruction.arrays[0]
    lhs_labels, kernel_labels, out_labels = re.split(
        "_|->", instruction.attribute("dim_labels").strip()
    )
    window = dict(
        field.split("=") for field in instruction.attribute("window").strip("{}").split() if field
    )
    total = out.shape[out_labels.index("b")] * out.shape[out_labels.index("f")]
    total *= kernel.shape[kernel_labels.index("i")]
    for d in range(len(out_labels) - 2):

        def of_dimension(field: str, default: str, d: int = d) -> str:
            return window[field].split("x")[d] if field in window else default

        stride, lhs_dilation, kernel_dilation = (
            int(of_dimension(field, "1")) for field in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(of_dimension("pad", "0_0").split("_")[0])
        outputs = np.arange(out.shape[out_labels.index(str(d))])
        taps = np.arange(kernel.shape[kernel_labels.index(str(d))])
        place = outputs[:, None] * stride + taps * kernel_dilation - low
        last = (lhs.shape[lhs_labels.index(str(d))] - 1) * lhs_dilation
        total *= int(((place >= 0) & (place <= last) & (place % lhs_dilation == 0)).sum())
    return 2.0 * total


def _moved(module: Module, site: Site) -> float:
    instruction = site.instruction
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    if instruction.opcode.endswith("-start"):  # its result names source and target
        return _off_chip(instruction)
    if instruction.opcode in _READS_A_PART:
        return 2 * _off_chip(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _off_chip(site.operands()[1])
    called = next(module.called_by(site), None) if instruction.opcode == "fusion" else None
    if called is None:
        return _off_chip(instruction) + sum(map(_off_chip, site.operands()))
    read = sum(_read(module, called, k, operand) for k, operand in enumerate(site.operands()))
    return read + _written(called, called.root, instruction)


def _off_chip(instruction: Instruction) -> float:
    return sum(array.bytes for array in instruction.arrays if not array.on_chip)


def _read(module: Module, fused: Computation, number: int, operand: Instruction) -> float:
    """Bytes that a fused computation reads of its operand `number`."""
    whole = _off_chip(operand)
    if not whole:
        return 0.0
    names, part = {fused.parameters[number].name}, 0.0
    for user in fused.instructions.values():
        if not names & set(user.operands):
            continue
        if user.opcode == "bitcast":
            names.add(user.name)
        elif user.opcode in _READS_A_PART:
            part += sum(array.bytes for array in user.arrays)
        elif user.opcode == "fusion":
            nested = module.computations[user.called[0]]
            part += sum(
                _read(module, nested, k, operand)
                for k, name in enumerate(user.operands)
                if name in names
            )
        elif user.opcode != "dynamic-update-slice" or user.operands[0] not in names:
            return whole
    return min(part, whole)


def _written(fused: Computation, root: Instruction, result: Instruction) -> float:
    """Bytes that a fused computation writes: of an update in place, the part that changes."""
    roots = [fused.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    for each, array in zip(roots, result.arrays, strict=False):
        while each.opcode == "bitcast":
            each = fused.instructions[each.operands[0]]
        if each.opcode == "dynamic-update-slice":
            update = fused.instructions[each.operands[1]].arrays[0]
            total += 0 if array.on_chip else update.bytes
        else:
            total += 0 if array.on_chip else array.bytes
    return total
