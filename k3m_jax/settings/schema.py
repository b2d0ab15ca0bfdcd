"""What a schema of nested frozen dataclasses can do: read a dictionary, and check ranges.

A field's type is a dataclass, a `Literal`, a `tuple[T, ...]` or a plain type; numbers may carry a
`Range` as `Annotated[int, Range(1)]`. Keys are dotted names, as in `model.text.width`.
"""

import dataclasses
import difflib
import math
import typing
from typing import Annotated, Any, Literal, NamedTuple


class UserError(Exception):
    """A mistake that the user can mend; its message is one line that says where and how."""


class Range(NamedTuple):
    """What a number must lie in, bounds included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


def parse(kind: type, value: Any, key: str) -> Any:
    """`value` as `kind`, recursively; `key` is its dotted name.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{key}: a group of settings is expected, not {value!r}")
        fields = typing.get_type_hints(kind)
        for name in value:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, 1)
                hint = f"; did you mean {join(key, close[0])}?" if close else ""
                raise UserError(f"unknown setting {join(key, name)}{hint}")
        return kind(**{n: parse(fields[n], v, join(key, n)) for n, v in value.items()})
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{key}: a tuple is expected, not {value!r}")
        return tuple(parse(typing.get_args(kind)[0], v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is Literal:
        if value not in typing.get_args(kind):
            allowed = ", ".join(map(repr, typing.get_args(kind)))
            raise UserError(f"{key}: {value!r} is not one of {allowed}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{key}: {kind.__name__} is expected, not {value!r}")
    return value


def join(key: str, name: str) -> str:
    """The dotted name of setting `name` in the group `key`, "" for the outermost."""
    return f"{key}.{name}" if key else name


def check_ranges(group: Any, prefix: str = "") -> None:
    """Raises UserError for the first number outside its range; NaN and infinity are in none."""
    for name, kind in typing.get_type_hints(type(group), include_extras=True).items():
        key, value = join(prefix, name), getattr(group, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, key)
            continue
        if typing.get_origin(kind) is tuple:
            kind, numbers = typing.get_args(kind)[0], value
        else:
            numbers = (value,)
        if typing.get_origin(kind) is Annotated:
            (bounds,) = kind.__metadata__
            for number in numbers:
                if not (bounds.low <= number <= bounds.high and math.isfinite(number)):
                    raise UserError(f"{key}: {number} is not {bounds}")
