"""Where a value of a compiled program comes from, if it is a part of one of its inputs."""

from k3m_jax.compile_check.hlo import Instruction, Module, Site

# What moves or casts its first operand, but computes nothing.
_MOVES = {
    "convert", "bitcast-convert", "reshape", "transpose", "dynamic-slice", "slice", "pad",
    "slice-start", "slice-done", "all-gather-done",
}  # fmt: skip
_PUT_TOGETHER = 'custom_call_target="ConcatBitcast"'  # a TPU's copy that was cut into slices
_RENAMES = {"copy", "copy-start", "copy-done", "bitcast", "opt-barrier"}


def trace_to_input(module: Module, site: Site) -> Instruction | None:
    """The input that the value of `site` is a part of; None where anything was computed.

    It is followed through kernels and loops: what every turn of a loop is handed unchanged, and
    what each turn puts on a stack, as a scan keeps cast parameters for the backward pass.
    """
    return _origin(module, site, None)


def _origin(module: Module, site: Site, index: int | None) -> Instruction | None:
    site, index = _maker(module, site, index)
    opcode, loop = site.instruction.opcode, site.caller
    if opcode in _MOVES or _PUT_TOGETHER in site.instruction.attributes:
        return trace_to_input(module, site.at(site.operands()[0]))
    if opcode == "dynamic-update-slice":  # a part put into an array of zeros, to be added up
        return trace_to_input(module, site.at(site.operands()[1]))
    if opcode == "parameter" and loop is None:
        return site.instruction
    if opcode == "parameter" and index is not None:  # of the body of a loop
        unchanged = _handed_on(module, site.at(site.computation.root), index)
        return _origin(module, loop.at(loop.operands()[0]), index) if unchanged else None
    if opcode == "while" and index is not None:
        body = module.computations[site.instruction.attribute("body").lstrip("%")]
        root = Site(body.root, body, site.times, site)
        if _handed_on(module, root, index):
            return _origin(module, site.at(site.operands()[0]), index)
        added, _ = _maker(module, root, index)
        if added.instruction.opcode == "dynamic-update-slice":
            return trace_to_input(module, added.at(added.operands()[1]))
    return None


def _handed_on(module: Module, root: Site, index: int) -> bool:
    """Whether the body of a loop returns an element of its tuple as it got it."""
    made, element = _maker(module, root, index)
    is_own = made.computation is root.computation and made.instruction.opcode == "parameter"
    return is_own and element == index


def _maker(module: Module, site: Site, index: int | None) -> tuple[Site, int | None]:
    """The instruction that makes a value, or element `index` of a tuple: through names, tuples
    and the borders of kernels, but not out of the body of a loop."""
    while True:
        instruction = site.instruction
        if instruction.opcode == "get-tuple-element":
            site, index = site.at(site.operands()[0]), int(instruction.attribute("index"))
        elif instruction.opcode == "tuple" and index is not None:
            site, index = site.at(site.operands()[index]), None
        elif instruction.opcode in _RENAMES:
            site = site.at(site.operands()[0])
        elif instruction.opcode == "fusion":
            called = next(module.called_by(site))
            site = Site(called.root, called, site.times, site)
        elif instruction.opcode == "parameter" and site.in_fusion:
            site = site.caller.at(site.caller.operands()[int(instruction.literal)])
        else:
            return site, index
