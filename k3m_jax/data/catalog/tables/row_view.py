"""One row as a mapping looks at it: columns by any spelling, templates, pairs, pictures."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from k3m_jax.data.catalog.tables.rows import column_key
from k3m_jax.data.catalog.tables.text import texts
from k3m_jax.modalities.base import number_text
from k3m_jax.modalities.picture import reference

FIELD = re.compile(r"\{([^{}]+)\}")
Cells = Mapping[str, Any]
Choice = tuple[str, ...]  # columns or templates, "{brand} {name}": the first that a row has


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Attributes as pairs within one cell, such as "colour=red,size=M", or within an object."""

    column: str
    between: str = ","
    sign: str = "="


class Reading(Protocol):
    """What of a mapping says how cells are read; see `mapping.TableMapping`."""

    lists: Mapping[str, str]
    empty: Choice
    language: str


class RowView:
    """A row as a mapping looks at it."""

    def __init__(self, cells: Cells, reading: Reading):
        self.cells, self._reading = cells, reading
        self._columns = _columns(tuple(cells))

    def column(self, name: str) -> str | None:
        """The row's own name of a column; None where it has none such."""
        return self._columns.get(column_key(name))

    def value(self, name: str) -> Any:
        """A cell, or with "a.b" what an object in a cell has under b; None where there is none."""
        if (column := self.column(name)) is not None:
            return self.cells[column]
        head, dot, inner = name.partition(".")
        value = self.value(head) if dot else None
        return RowView(value, self._reading).value(inner) if isinstance(value, Mapping) else None

    def texts(self, entry: str, between: str | None = None) -> Iterator[str]:
        """The texts of a column, or the one of a template of which a column has text.

        `between` separates them within a cell, if the mapping has no separator of the column.
        """
        names = names_of(entry)
        if names != (entry,):
            parts = {name: " ".join(self.texts(name)) for name in names}
            filled = FIELD.sub(lambda field: parts[field[1]], entry) if any(parts.values()) else ""
            yield from filter(None, (" ".join(filled.split()),))
            return
        value, separator = self.value(entry), self._reading.lists.get(entry, between)
        if separator and isinstance(value, str):
            value = value.split(separator)
        for text in texts(value, self._reading.language):
            if text.lower() not in _lowered(self._reading.empty):
                yield text

    def text(self, choice: Choice, between: str = " ") -> str:
        """The text of the first entry that has all its columns, or of the last; "" without.

        Of a list with separators it is the first value; other lists, paths, are joined.
        """
        for entry in choice:
            whole = all(any(self.texts(name)) for name in names_of(entry))
            if whole or entry == choice[-1]:
                found = list(self.texts(entry))
                return (
                    found[0] if found[1:] and entry in self._reading.lists else between.join(found)
                )
        return ""

    def any(self, choice: Choice) -> bool:
        """Whether any entry has text; True where there is no entry."""
        return not choice or any(any(self.texts(entry)) for entry in choice)

    def pairs(self, cell: Pairs) -> Iterator[tuple[str, str]]:
        """The pairs of a cell, or of the object that it is or spells."""
        value = self.value(cell.column)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _object(value)
        if isinstance(value, Mapping):
            row = RowView(value, self._reading)
            yield from ((name, text) for name in value for text in row.texts(name))
        elif isinstance(value, str):
            for part in value.split(cell.between):
                name, sign, text = part.partition(cell.sign)
                separator = self._reading.lists.get(cell.column)
                for each in text.split(separator) if separator and sign else [text]:
                    yield from ((name.strip(), found) for found in texts(each))

    def images(self) -> Iterator[str | bytes]:
        """Paths, addresses or bytes of the pictures, each once."""
        seen: set[str | bytes] = set()
        for entry in self._reading.images:
            name, *others = names_of(entry)
            if others:
                found = (
                    self.texts(entry) if all(any(self.texts(n)) for n in (name, *others)) else ()
                )
            else:
                found = self._references(self.value(name), self._reading.lists.get(name))
            for image in found:
                if isinstance(image, str) and name != entry and not others:
                    image = entry.replace(f"{{{name}}}", image)
                if image not in seen:
                    seen.add(image)
                    yield image

    def _references(self, value: Any, separator: str | None) -> Iterator[str | bytes]:
        if isinstance(value, Mapping):
            columns = [each for each in value.values() if isinstance(each, list)]
            if columns and len(columns) == len(value):  # an object of lists, as Parquet has it
                rows = zip(*columns, strict=False)
                value = [dict(zip(value, row, strict=True)) for row in rows]
            else:
                value = reference(value)
        if isinstance(value, bytes) and value:
            yield value
        elif isinstance(value, str):
            parts = value.split(separator) if separator else [value]
            yield from filter(None, (part.strip() for part in parts))
        elif isinstance(value, (list, tuple)):
            for each in value:
                yield from self._references(each, separator)
        elif isinstance(value, (int, float)):  # an id, in a template
            yield number_text(value)


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@functools.lru_cache(1024)
def names_of(entry: str) -> Choice:
    """The columns of a template; a text without braces is one column."""
    return tuple(FIELD.findall(entry)) or (entry,)


@functools.lru_cache(1024)
def _columns(names: Choice) -> dict[str, str]:
    return {column_key(name): name for name in reversed(names)}


@functools.lru_cache(64)
def _lowered(words: Choice) -> frozenset[str]:
    return frozenset(word.lower() for word in words)
