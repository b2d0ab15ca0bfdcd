"""`--format=table`: any table as a catalog, by a mapping of its columns."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from k3m_jax.data.catalog import readers
from k3m_jax.data.catalog.readers import CatalogReader, RawLine
from k3m_jax.data.catalog.tables.mapping import PRESETS, read_mapping
from k3m_jax.data.catalog.tables.row_view import RowView
from k3m_jax.data.catalog.tables.rows import ENDINGS, Row, kind_of, read_rows, row_groups
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.settings import UserError

SEEN = 100  # rows whose columns are those of the table


class TableReader(CatalogReader):
    """A file of products, or a folder with several; `RawLine.data` is a `Row`."""

    def __init__(self, folder: epath.PathLike, *, mapping: str = "", **options: Any):
        """`mapping` is the name of a preset or a .toml file; raises UserError for any other."""
        path = epath.Path(folder)
        super().__init__(path.parent if path.is_file() else path, **options)
        if not mapping:
            known = ", ".join(sorted(PRESETS))
            raise UserError(f"--mapping is required with --format=table: a .toml file, or {known}")
        self._path, self._mapping = path, read_mapping(mapping)
        file = self.files()[0]
        every = self._mapping.dialect._replace(columns=())
        rows = list(itertools.islice(read_rows(file, every), SEEN))
        columns = dict.fromkeys(name for row in rows for name in row.cells)
        if columns or not rows:
            self._mapping.check(columns, file.name)

    def files(self) -> list[epath.Path]:
        """The files that the mapping names, or all tables of the folder."""
        if self._path.is_file():
            if not kind_of(self._path):
                raise UserError(f"--input: {self._path} is no table: {', '.join(ENDINGS)}")
            return [self._path]
        pattern = self._mapping.files or "*"
        found = sorted(path for path in self._path.glob(pattern) if kind_of(path))
        if self._mapping.lookup:
            found = [path for path in found if path != self.folder / self._mapping.lookup.file]
        if not found:
            raise UserError(f"--input: {self._path} has no table {pattern!r}: .csv, .parquet, …")
        return found

    def lines_from(self, file: epath.Path, line: int = 1, offset: int = -1) -> Iterator[RawLine]:
        """The items of a file, or of the row group `offset` of one."""
        rows = read_rows(file, self._mapping.dialect, None if offset < 0 else offset)
        name = str(file.relative_to(self.folder))
        for row in self._mapping.items(rows):
            yield RawLine(name, row.line, row, offset)

    def blocks(self, lines: int) -> Iterator[tuple[epath.Path, int, int, int | None]]:
        """Row groups of Parquet, whole files of other kinds."""
        for file in self.files():
            for group in row_groups(file):
                yield file, 1, -1 if group is None else group, None

    def fields(self, raw: RawLine, repairs: list[str]) -> Mapping[str, Any]:
        """What the mapping makes of a row."""
        row: Row = raw.data
        if row.problem[0]:
            raise InvalidRecordError(*row.problem)
        repairs += row.repairs
        record = self._mapping.record(row.cells)
        if self._mapping.lookup:
            record["images"] = [self._paths.get(name, name) for name in record["images"]]
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_paths"}

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """Paths of pictures by name; each process reads them once."""
        lookup, found = self._mapping.lookup, {}
        for row in read_rows(self.folder / lookup.file, self._mapping.dialect._replace(columns=())):
            view = RowView(row.cells, self._mapping)
            found[view.text((lookup.key,))] = view.text((lookup.path,))
        return found


readers.FORMATS["table"] = TableReader
