"""A mapping: which columns of a table make which parts of a product. docs/dumps.md explains it.

Presets are mappings of common exports, TOML files in `presets/`.
"""

import dataclasses
import functools
import itertools
import pathlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from k3m_jax.data.catalog.tables.row_view import Cells, Choice, Pairs, RowView, names_of
from k3m_jax.data.catalog.tables.rows import Dialect, Row, column_key
from k3m_jax.settings import UserError

PRESETS = {path.stem: path for path in (pathlib.Path(__file__).parent / "presets").glob("*.toml")}


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Rows of one product that follow one another: the first has what later ones leave out."""

    by: Choice  # rows with the same value are of one product
    item: Choice = ()  # a row that has one of these is an item; (): each row
    own: Choice = ()  # columns that a row does not take from the first one
    collect: Choice = ()  # columns of which an item gets the values of all rows


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A second table that gives what pictures' names stand for."""

    file: str  # relative to the folder
    key: str  # its column of names
    path: str  # a template of its columns


@dataclasses.dataclass(frozen=True)
class TableMapping:
    """What `read_mapping` reads; columns are compared by `column_key`, "a.b" is b of an object."""

    name: str
    id: Choice
    title: Choice = ()
    append: Choice = ()  # all of them, after the title
    product: Choice = ()
    category: Choice = ()
    split: Choice = ()
    images: Choice = ()  # all of them; the first that loads is shown
    attributes: Mapping[str, Choice] = dataclasses.field(default_factory=dict)  # by property
    pairs: tuple[Choice, ...] = ()  # columns of a name and of its value; {n} counts from 1
    cells: tuple[Pairs, ...] = ()
    rest: bool = False  # all other columns are attributes
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)  # separators by column
    empty: Choice = ()  # texts that say nothing, such as "N/A"
    where: Mapping[str, Choice] = dataclasses.field(default_factory=dict)  # rows to read
    optional: bool = False  # columns may be absent, but for the id's
    files: str = ""  # pattern of the files to read, relative to the folder
    language: str = ""  # of texts in several, such as "en"
    delimiter: str = ""
    quotes: bool = True
    encoding: str = ""
    rows: Grouped | None = None
    lookup: Lookup | None = None

    @property
    def dialect(self) -> Dialect:
        """How its text files are written, and which columns are needed."""
        columns = () if self.rest else tuple(self.used)
        return Dialect(self.delimiter, self.quotes, self.encoding, columns)

    @functools.cached_property
    def used(self) -> frozenset[str]:
        """Keys of all columns that it names."""
        choices = [self.id, self.title, self.append, self.product, self.category, self.split]
        choices += [self.images, *self.attributes.values(), *self.pairs, tuple(self.where)]
        choices += [(cell.column,) for cell in self.cells]
        if self.rows:
            choices += [self.rows.by, self.rows.item, self.rows.own, self.rows.collect]
        return frozenset(
            column_key(name) for c in choices for entry in c for name in names_of(entry)
        )

    def check(self, columns: Iterable[str], file: str) -> None:
        """Raises UserError for a column that is named and is not there."""
        there = {column_key(name) for name in columns}
        needed = {"id": self.id}
        if not self.optional:
            needed |= {key: getattr(self, key) for key in ("title", "product", "category", "split")}
            needed |= {f"append[{i}]": (entry,) for i, entry in enumerate(self.append)}
            needed |= {f"images[{i}]": (entry,) for i, entry in enumerate(self.images)}
            needed |= {f"attributes.{name}": choice for name, choice in self.attributes.items()}
            needed |= {f"cells[{i}]": (cell.column,) for i, cell in enumerate(self.cells)}
            needed |= {f"where.{name}": (name,) for name in self.where}
        if self.rows:
            needed["rows.by"] = self.rows.by
        for key, choice in needed.items():
            if choice and not any(there >= {*map(column_key, names_of(entry))} for entry in choice):
                has = ", ".join(columns)
                named = " or ".join(map(repr, choice))
                why = f"which {self.name} names for {key}; it has {has:.500}"
                raise UserError(f"--mapping: {file} has no {named}, {why}")

    def items(self, rows: Iterable[Row]) -> Iterator[Row]:
        """One row for each item: those of a product completed by each other, others left out."""
        rows = (row for row in rows if row.problem[0] or self._read(row.cells))
        if not self.rows:
            yield from rows
            return
        last = ""

        def product(row: Row) -> str:
            nonlocal last
            last = RowView(row.cells, self).text(self.rows.by) or last
            return last

        for _, group in itertools.groupby(rows, product):
            yield from self._complete(list(group))

    def record(self, cells: Cells) -> dict[str, Any]:
        """The line of a products.jsonl that a row stands for."""
        row = RowView(cells, self)
        product = row.text(self.product) or (self.rows and row.text(self.rows.by))
        titles = [row.text(self.title), *(row.text((entry,)) for entry in self.append)]
        return {
            "id": row.text(self.id),
            "title": " ".join(filter(None, titles)),
            "triples": [list(pair) for pair in self._triples(row)],
            "images": list(row.images()),
            "product": product or None,
            "category": row.text(self.category, between=" > "),
            "split": row.text(self.split),
            "source": self.name,
        }

    def _read(self, cells: Cells) -> bool:
        row = RowView(cells, self)
        return all(row.text((name,)) in allowed for name, allowed in self.where.items())

    def _complete(self, rows: list[Row]) -> Iterator[Row]:
        how, first = self.rows, RowView(rows[0].cells, self)
        collected = {}
        for name in how.collect:
            if column := first.column(name):
                found = [row.cells[column] for row in rows if row.cells.get(column)]
                collected[column] = found
        own = {first.column(name) for name in how.own}
        shared = {name: value for name, value in first.cells.items() if name not in own}
        items = [r for r in rows if r.problem[0] or RowView(r.cells, self).any(how.item)]
        for row in items or rows[:1]:
            if row.problem[0]:
                yield row
                continue
            given = {name: value for name, value in row.cells.items() if value not in ("", None)}
            yield row._replace(cells={**shared, **given, **collected})

    def _triples(self, row: RowView) -> Iterator[tuple[str, str]]:
        for name, choice in self.attributes.items():
            for entry in choice:
                if found := list(row.texts(entry)):
                    yield from ((name, text) for text in found)
                    break
        for name, value in self.pairs:
            for n in range(1, 1000 if "{n}" in name else 2):
                columns = name.replace("{n}", str(n)), value.replace("{n}", str(n))
                if not (row.column(columns[0]) and row.column(columns[1])):
                    break
                for text in row.texts(columns[1], self.lists.get(value)):
                    yield row.text(columns[:1]), text
        for cell in self.cells:
            yield from row.pairs(cell)
        if self.rest:
            for column in row.cells:
                if column_key(column) not in self.used and not column.startswith("__"):
                    yield from ((column, text) for text in row.texts(column))


def read_mapping(name: str) -> TableMapping:
    """A preset, or the mapping of a .toml file; raises UserError that names the key."""
    path, found = _read(name)
    if base := found.pop("base", ""):
        _, preset = _read(str(base))
        found = {"name": base, **preset, **found}
    return _parse(TableMapping, {"name": path.stem, **found}, name)


def _read(name: str) -> tuple[pathlib.Path, dict[str, Any]]:
    path = PRESETS.get(name) or pathlib.Path(name)
    if not path.is_file():
        known = ", ".join(sorted(PRESETS))
        raise UserError(f"--mapping: {name!r} is no .toml file and not one of {known}")
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--mapping: {name}: {error}") from error


def _parse(kind: type, given: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := given.keys() - fields.keys():
        known = ", ".join(fields)
        raise UserError(f"--mapping: {where}: unknown key {min(unknown)!r}; there are {known}")
    values = {}
    for name, value in given.items():
        values[name] = _value(fields[name].type, value, f"{where}: {name}")
    missing = [n for n, f in fields.items() if n not in given and f.default is f.default_factory]
    if missing:
        raise UserError(f"--mapping: {where}: {missing[0]} is missing")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    nested = {Grouped | None: Grouped, Lookup | None: Lookup}
    match value:
        case dict() if kind in nested:
            return _parse(nested[kind], value, where)
        case list() if kind == tuple[Pairs, ...]:
            return tuple(_parse(Pairs, each, where) for each in value)
        case list() if kind == tuple[Choice, ...]:
            pairs = tuple(_value(Choice, each, where) for each in value)
            if any(len(pair) != 2 for pair in pairs):
                raise UserError(f"--mapping: {where} are lists of two columns, a name and a value")
            return pairs
        case dict() if kind == Mapping[str, Choice]:
            return {key: _value(Choice, each, f"{where}.{key}") for key, each in value.items()}
        case dict() if kind == Mapping[str, str]:
            return {key: _value(str, each, f"{where}.{key}") for key, each in value.items()}
        case str() if kind in (str, Choice):
            return value if kind is str else (value,)
        case list() if kind == Choice and all(isinstance(each, str) for each in value):
            return tuple(value)
        case bool() if kind is bool:
            return value
    raise UserError(f"--mapping: {where} is {value!r:.60}, which does not fit (docs/dumps.md)")
