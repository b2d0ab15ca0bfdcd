"""Parses the text of a compiled program (XLA's HLO): instructions, and how often each one runs.

The compiler's own cost analysis counts the body of a loop once; here counts are multiplied by the
loops' trip counts. `trace_to_input` finds the program input that a value is part of.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Self

BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
    "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLS = re.compile(r"\b(?:calls|body|condition|to_apply|\w+_computation)=%?([\w.\-]+)")
_CALL_LISTS = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Their `to_apply` runs once per element; its work is counted with the instruction.
_ELEMENTWISE_CALLERS = {
    "reduce", "all-reduce", "all-reduce-start", "reduce-scatter", "reduce-window", "scatter",
    "select-and-scatter", "sort", "map",
}  # fmt: skip

# Opcodes that move or cast their first operand without computing anything.
_MOVES = {
    "convert", "bitcast-convert", "reshape", "transpose", "dynamic-slice", "slice", "pad",
    "slice-start", "slice-done", "all-gather-done",
}  # fmt: skip
_CONCATENATION = 'custom_call_target="ConcatBitcast"'  # of a TPU's copy in slices
_RENAMES = {"copy", "copy-start", "copy-done", "bitcast", "opt-barrier"}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool = False  # in a TPU's on-chip memory, not in its HBM

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Without padding; 0 for tokens and the like."""
        return self.size * BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = arrays opcode(operands), attributes`."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str  # text between the parentheses: a constant's value, a parameter's number
    attributes: str
    is_root: bool

    @functools.cached_property
    def op_name(self) -> str:
        """Its origin in the traced program, as far as the compiler records it."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found.group(1).replace("\\'", "'") if found else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        if self.opcode in _ELEMENTWISE_CALLERS:
            return ()
        lists = " ".join(_CALL_LISTS.findall(self.attributes))
        return (*_CALLS.findall(self.attributes), *re.findall(r"%?([\w.\-]+)", lists))

    def attribute(self, name: str) -> str:
        """The text of `name=…` up to the next comma outside brackets; "" if there is none."""
        found = re.search(rf"\b{name}=", self.attributes)
        return _until_comma(self.attributes, found.end()) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions, in execution order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction whose value it returns."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        found = (i for i in self.instructions.values() if i.opcode == "parameter")
        return {int(i.literal): i for i in found}


@dataclasses.dataclass(frozen=True)
class Site:
    """An instruction with the chain of calls that leads to it, and how often it runs."""

    instruction: Instruction
    computation: Computation
    times: int
    caller: "Site | None"  # the instruction that calls `computation`; None in the entry

    @property
    def in_fusion(self) -> bool:
        """Whether it is inside a fused kernel, so that its operands and result stay on chip."""
        return self.caller is not None and self.caller.instruction.opcode == "fusion"

    def operands(self) -> list[Instruction]:
        """The instructions whose values it reads."""
        return [self.computation.instructions[name] for name in self.instruction.operands]

    def at(self, instruction: Instruction) -> "Site":
        """Another instruction of the same computation."""
        return dataclasses.replace(self, instruction=instruction)


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: Computation

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `compiled.as_text()`."""
        computations, entry, current = {}, None, None
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = Computation(header.group(2), {})
                computations[current.name] = current
                entry = current if header.group(1) else entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.instructions[found.group(2)] = _instruction(line, found)
        if entry is None:
            raise ValueError("the text has no ENTRY computation")
        return cls(computations, entry)

    def sites(self) -> Iterator[Site]:
        """Every instruction that runs, callers before callees."""
        yield from self._sites(self.entry, 1, None)

    def called_by(self, site: Site) -> Iterator[Computation]:
        """The computations that `site` calls."""
        for name in site.instruction.called:
            if name in self.computations:
                yield self.computations[name]

    def _sites(self, computation: Computation, times: int, caller: Site | None) -> Iterator[Site]:
        for instruction in computation.instructions.values():
            site = Site(instruction, computation, times, caller)
            yield site
            trips = self.trip_count(instruction) if instruction.opcode == "while" else 1
            for called in self.called_by(site):
                yield from self._sites(called, times * trips, site)

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` runs its body.

        Raises:
          ValueError: neither the compiler nor the loop's condition contains it.
        """
        if known := _TRIPS.search(loop.attributes):
            return int(known.group(1))
        # The form of `lax.scan`: the counter starts at 0 and is compared with a constant.
        condition = self.computations[loop.attribute("condition").lstrip("%")]
        limits = [i for i in condition.instructions.values() if i.opcode == "constant"]
        if condition.root.attribute("direction") == "LT" and len(limits) == 1:
            return int(limits[0].literal)
        raise ValueError(f"the trip count of the loop {loop.name} is unknown")


def trace_to_input(module: Module, site: Site) -> Instruction | None:
    """The program's input that the value of `site` is part of; None if anything was computed.

    The trace follows kernels and loops: loop-invariant values, and values that each iteration
    stacks, as a scan does with cast parameters for the backward pass.
    """
    return _trace(module, site, None)


def _trace(module: Module, site: Site, index: int | None) -> Instruction | None:
    site, index = _producer(module, site, index)
    opcode, loop = site.instruction.opcode, site.caller
    if opcode in _MOVES or _CONCATENATION in site.instruction.attributes:
        return trace_to_input(module, site.at(site.operands()[0]))
    if opcode == "dynamic-update-slice":  # a part of an array of zeros, to be summed
        return trace_to_input(module, site.at(site.operands()[1]))
    if opcode == "parameter" and loop is None:
        return site.instruction
    if opcode == "parameter" and index is not None:  # of the body of a loop
        unchanged = _is_invariant(module, site.at(site.computation.root), index)
        return _trace(module, loop.at(loop.operands()[0]), index) if unchanged else None
    if opcode == "while" and index is not None:
        body = module.computations[site.instruction.attribute("body").lstrip("%")]
        root = Site(body.root, body, site.times, site)
        if _is_invariant(module, root, index):
            return _trace(module, site.at(site.operands()[0]), index)
        added, _ = _producer(module, root, index)
        if added.instruction.opcode == "dynamic-update-slice":
            return trace_to_input(module, added.at(added.operands()[1]))
    return None


def _is_invariant(module: Module, root: Site, index: int) -> bool:
    """Whether the body of a loop returns an element of its tuple unchanged."""
    source, element = _producer(module, root, index)
    is_own = source.computation is root.computation and source.instruction.opcode == "parameter"
    return is_own and element == index


def _producer(module: Module, site: Site, index: int | None) -> tuple[Site, int | None]:
    """The instruction that computes a value, or element `index` of a tuple.

    Looks through copies, tuples and kernel boundaries, but not out of the body of a loop.
    """
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


def _instruction(line: str, found: re.Match) -> Instruction:
    start = found.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    arrays = tuple(
        Array(dtype, tuple(int(n.strip("<=")) for n in dims.split(",") if n), "S(1)" in layout)
        for dtype, dims, layout in _ARRAY.findall(line[start:end])
    )
    opens = line.index("(", end)
    closes = _closing(line, opens)
    inside = line[opens + 1 : closes]
    return Instruction(
        name=found.group(2),
        opcode=line[end:opens].strip(),
        arrays=arrays,
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=line[closes + 1 :],
        is_root=bool(found.group(1)),
    )


def _closing(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`."""
    depth = 0
    for bracket in re.finditer(r"[()]", text[opening:]):
        depth += 1 if bracket.group() == "(" else -1
        if not depth:
            return opening + bracket.start()
    raise ValueError(f"a bracket is not closed: {text[:120]}")


def _until_comma(text: str, start: int) -> str:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth < 0 or (not depth and text[i] == ","):
            return text[start:i].strip()
    return text[start:].strip()
