"""Files to rows: CSV, TSV, JSON lines, Parquet, XML feeds and WebDataset tars, gzipped or not.

Everything streams: what is held is a row, of Parquet a batch of rows.
"""

import codecs
import contextlib
import csv
import functools
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple
from xml.etree import ElementTree

from etils import epath

from k3m_jax.modalities.pixels import MAX_BYTES
from k3m_jax.settings import UserError

LONGEST_LINE = 64 << 20  # bytes
LONGEST_CELL = 16 << 20  # characters
BATCH = 64  # rows of Parquet: they may hold pictures
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BROKEN = (csv.Error, OSError, EOFError, zlib.error, tarfile.TarError, ElementTree.ParseError)
csv.field_size_limit(LONGEST_CELL)


class Row(NamedTuple):
    """One row, or why there is none."""

    line: int  # from 1, where it begins; its number in Parquet, XML and tar
    cells: Mapping[str, Any]  # by column
    repairs: tuple[str, ...] = ()  # "kind: detail"
    problem: tuple[str, str] = ("", "")  # reason and detail


class Dialect(NamedTuple):
    """How the text files of a table are written."""

    delimiter: str = ""  # "": tab in .tsv, else what the header has most of
    quotes: bool = True  # whether a cell may be quoted
    encoding: str = ""  # "": UTF-8, UTF-16 with its mark, Windows-1252 where a line is neither
    columns: tuple[str, ...] = ()  # keys of those that are needed, for Parquet; (): all


def kind_of(file: epath.Path) -> str:
    """The name of a file's kind in `KINDS`; "" where it is none."""
    name = file.name.lower()
    name = name.removesuffix(".gz")
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), "")


@functools.lru_cache(1 << 14)
def column_key(name: str) -> str:
    """What columns are compared by: "Image Src", "image-src" and "image_src" are one."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def read_rows(file: epath.Path, dialect: Dialect, group: int | None = None) -> Iterator[Row]:
    """The rows of a file, or of one row group of Parquet.

    Raises UserError where the file is not what its name says or ends too early.
    """
    line = 0
    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(file.open("rb"))
            if file.name.lower().endswith(".gz"):
                opened = stack.enter_context(gzip.open(opened))
            for row in KINDS[kind_of(file)](opened, dialect, group):
                yield row
                line = row.line
    except BROKEN as error:
        detail = " ".join(str(error).split())
        if "field larger" in detail or "a line of more" in detail:
            detail += ": is a quote left open? `quotes = false` in the mapping reads quotes as text"
        raise UserError(f"--input: {file} can't be read after line {line}: {detail}") from error


def _csv(
    opened: IO[bytes], dialect: Dialect, group: int | None, tab: bool = False
) -> Iterator[Row]:
    lines = _Lines(opened, dialect.encoding)
    header = next(lines, "")
    if not (delimiter := dialect.delimiter):
        delimiter = "\t" if tab else max(",;\t|", key=header.count)
    quoting = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    lines.back = header
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    columns = [name.strip() for name in next(reader, [])]
    while True:
        line, lines.repairs = lines.number + 1, []
        if (values := next(reader, None)) is None:
            return
        if not any(values):
            continue
        repairs = lines.repairs
        if len(values) > len(columns):
            if any(values[len(columns) :]):
                repairs.append(f"extra_columns: {len(values)}, not {len(columns)}")
            last = len(columns) - 1
            values[last:] = [delimiter.join(values[last:]).rstrip(delimiter)]
        cells: dict[str, Any] = {}
        for name, value in zip(columns, values, strict=False):
            cells[name] = cells.get(name) or value
        yield Row(line, cells, tuple(repairs))


def _tsv(opened: IO[bytes], dialect: Dialect, group: int | None) -> Iterator[Row]:
    return _csv(opened, dialect, group, tab=True)


class _Lines:
    """Decoded lines of a file; no generator, so that `csv` may go on after an error."""

    def __init__(self, opened: IO[bytes], encoding: str):
        start = opened.peek(4)[:4] if hasattr(opened, "peek") else b""
        if not encoding and start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            text = io.TextIOWrapper(opened, "utf-16", newline="")
            self._read: Callable[[int], Any] = text.readline
        else:
            self._read = opened.readline
        self._encoding, self.number, self.back = encoding, 0, ""
        self.repairs: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.back:
            line, self.back = self.back, ""
            return line
        line = self._read(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of more than {LONGEST_LINE >> 20} MB")
        if isinstance(line, str):
            return line
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return line.decode(self._encoding or "utf-8")
        except (UnicodeDecodeError, LookupError) as error:
            if isinstance(error, LookupError):
                raise UserError(f"encoding {self._encoding!r} of the mapping is unknown") from error
            other = self._encoding or "cp1252"
            self.repairs.append(f"not_utf8: line {self.number} read as {other}")
            return line.decode(other, "replace")


def _json(opened: IO[bytes], dialect: Dialect, group: int | None) -> Iterator[Row]:
    lines = _Lines(opened, dialect.encoding)
    for text in lines:
        if not text.strip():
            continue
        repairs, lines.repairs = tuple(lines.repairs), []
        if lines.number == 1 and text.strip() == "[":
            raise OSError("it is one JSON array: one object a line can be read")
        try:
            cells = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Row(lines.number, {}, repairs, ("not_json", str(error)))
            continue
        problem = ("", "")
        if not isinstance(cells, dict):
            problem = ("wrong_type", f"{type(cells).__name__}, not an object")
        yield Row(lines.number, {} if problem[0] else cells, repairs, problem)


def _parquet(opened: IO[bytes], dialect: Dialect, group: int | None) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet  # half a second

    try:
        file = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        groups = list(range(len(sizes))) if group is None else [group]
        line = sum(sizes[: groups[0]]) if groups else 0
        names = file.schema_arrow.names
        names = [n for n in names if not dialect.columns or column_key(n) in dialect.columns]
        for batch in file.iter_batches(BATCH, row_groups=groups, columns=names):
            for cells in batch.to_pylist():
                line += 1
                yield Row(line, cells)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


def row_groups(file: epath.Path) -> Sequence[int | None]:
    """What can be read by itself: the row groups of Parquet, of any other file the whole, None."""
    if kind_of(file) != "parquet":
        return (None,)
    from pyarrow import parquet

    with file.open("rb") as opened:
        return range(parquet.ParquetFile(opened).num_row_groups)


def _xml(opened: IO[bytes], dialect: Dialect, group: int | None) -> Iterator[Row]:
    """The `item`s of an RSS feed or the `entry`s of Atom; tags without their namespace."""
    line, stack = 0, []
    for event, element in ElementTree.iterparse(opened, ("start", "end")):
        if event == "start":
            stack.append(element)
            continue
        stack.pop()
        if _tag(element) in ("item", "entry"):
            line += 1
            yield Row(line, _children(element))
            stack[-1].remove(element)


def _children(element: ElementTree.Element) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for child in element:
        value = _children(child) if len(child) else child.text
        tag = _tag(child)
        if tag in cells:
            before = cells[tag] if isinstance(cells[tag], list) else [cells[tag]]
            value = [*before, value]
        cells[tag] = value
    return cells


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _tar(opened: IO[bytes], dialect: Dialect, group: int | None) -> Iterator[Row]:
    """Samples of a WebDataset: files of one name, next to each other, with other endings."""
    line, key, cells, repairs, problem = 0, None, {}, [], ("", "")
    with tarfile.open(fileobj=opened, mode="r|*") as archive:
        for member in archive:
            if not member.isfile():
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            if (this := f"{folder}{slash}{stem}") != key:
                if key is not None:
                    yield Row(line, cells, tuple(repairs), problem)
                line, key, cells, repairs, problem = line + 1, this, {"__key__": this}, [], ("", "")
            if ".." in member.name.split("/") or member.name.startswith("/"):
                problem = ("outside_folder", f"a file of the tar is named {member.name!r}")
            if member.size > MAX_BYTES:
                repairs.append(f"too_large_file: {member.name} has {member.size} bytes")
                continue
            data = archive.extractfile(member).read()
            if f".{ending.lower()}".endswith(PICTURES):
                cells.setdefault("images", []).append(data)
            elif ending == "json":
                try:
                    described = json.loads(data)
                    cells = {**described, **cells}
                except (ValueError, TypeError, RecursionError) as error:
                    problem = ("not_json", f"{member.name}: {error}")
            else:
                cells[ending] = data
    if key is not None:
        yield Row(line, cells, tuple(repairs), problem)


KINDS: dict[str, Callable[[IO[bytes], Dialect, int | None], Iterator[Row]]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "parquet": _parquet,
    "xml": _xml,
    "tar": _tar,
}
ENDINGS = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".xml": "xml",
    ".tar": "tar",
}
