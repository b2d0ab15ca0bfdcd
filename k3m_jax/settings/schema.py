"""What a schema of nested frozen dataclasses can do: describe itself, read a dictionary, check.

`option` or `required` make a field. Its type is a dataclass (a group of settings), a `Literal`, a
`tuple[T, ...]` or a plain type, numbers with a `Range`. Keys are dotted names: `model.text.width`.
A group's `check_rules(key)`, if any, raises UserError where its fields contradict each other.
"""

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple


class UserError(Exception):
    """A mistake that the user can correct; its message is one line that says where and how."""


class DiskError(UserError):
    """A disk, or a store, that is full or fails: the same command goes on once it works again."""


class Range(NamedTuple):
    """What a number must lie in, bounds included; NaN and infinity lie in none."""

    low: float
    high: float = math.inf


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
NonNegativeFloat = Annotated[float, Range(0)]
PositiveFloat = Annotated[float, Range(1e-9)]


def option(default: Any, description: str) -> Any:
    """A dataclass field with its description, which docs and `--help` print."""
    return dataclasses.field(default=default, metadata={"description": description})


required = functools.partial(option, dataclasses.MISSING)  # a field without a default


class Setting(NamedTuple):
    """A field of a schema."""

    name: str  # dotted
    kind: Any  # its type, with its Range
    default: Any  # dataclasses.MISSING where it is required
    description: str


def settings_of(group: Any, key: str = "") -> list[Setting]:
    """The fields of a group, a dataclass or an instance whose values are then the defaults."""
    prefix, settings = f"{key}." if key else "", []
    for field in dataclasses.fields(group):
        default = getattr(group, field.name, dataclasses.MISSING)
        description = field.metadata.get("description", "")
        if typing.get_origin(field.type) is Literal:
            description += f"; one of {', '.join(typing.get_args(field.type))}"
        settings.append(Setting(prefix + field.name, field.type, default, description))
    return settings


def groups_of(group: Any, key: str = "", text: str = "") -> Iterator[tuple[str, str, list]]:
    """Of an instance and the groups in it: name, `text` or its docstring's, all other fields."""
    fields = settings_of(group, key)
    inner = [each for each in fields if dataclasses.is_dataclass(each.default)]
    plain = [each for each in fields if each not in inner]
    yield key, text or type(group).__doc__.splitlines()[0], plain
    for each in inner:
        yield from groups_of(each.default, each.name, each.description)


def parse(kind: Any, value: Any, key: str = "") -> Any:
    """`value`, whose dotted name is `key`, as `kind`, recursively; UserError where it is wrong."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{key}: a group of settings is expected, not {value!r}")
        prefix = f"{key}." if key else ""
        kinds = {field.name: field.type for field in dataclasses.fields(kind)}
        for name in sorted(value.keys() - kinds):
            close = difflib.get_close_matches(name, kinds, 1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise UserError(f"unknown setting {prefix}{name}{hint}")
        group = kind(**{n: parse(kinds[n], v, prefix + n) for n, v in value.items()})
        if hasattr(group, "check_rules"):
            group.check_rules(key)
        return group
    if origin is Annotated:
        number, (_, bounds) = parse(arguments[0], value, key), arguments
        if not (bounds.low <= number <= bounds.high and math.isfinite(number)):
            raise UserError(f"{key}: {number} is not between {bounds.low:g} and {bounds.high:g}")
        return number
    if origin in (tuple, list):
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{key}: a tuple is expected, not {value!r}")
        return origin(parse(arguments[0], each, f"{key}[{i}]") for i, each in enumerate(value))
    if origin is Literal:
        check_choice(key, value, arguments)
    elif kind is float and type(value) is int:
        return float(value)
    elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{key}: {kind.__name__} is expected, not {value!r}")
    return value


def check_choice(key: str, value: Any, choices: Iterable[str]) -> None:
    """Raises UserError, which lists the choices, where `value` is none of them."""
    if value not in choices:
        raise UserError(f"{key}: {value!r} is not one of {', '.join(map(repr, choices))}")


def check_multiple(key: str, value: int, of: str, divisor: int) -> None:
    """Raises UserError where `value`, of `key`, is not a multiple of `divisor`, named `of`."""
    if value % divisor:
        raise UserError(f"{key} {value} is not a multiple of {of} {divisor}")
