"""Catalogues in: folders of products as others wrote them, line by line.

`lines()` is cheap and lazy; `parse(line)` makes the product of one line and depends on nothing but
the line, so that any number of workers can share the work.
"""

import abc
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from k3m_jax.data.records import InvalidRecordError, Product, make_product
from k3m_jax.data.store import remote
from k3m_jax.modalities.pixels import MAX_BYTES
from k3m_jax.settings import UserError


@dataclasses.dataclass(frozen=True)
class RawLine:
    """One line of a catalogue, as it lies in the file, and where that is."""

    file: str
    line: int  # from 1
    data: bytes


@dataclasses.dataclass(frozen=True)
class Block:
    """The lines of a file that begin in the bytes [start, end)."""

    file: epath.Path
    start: int
    end: int

    def lines(self) -> Iterator[bytes]:
        """The lines as they are. They end at line feeds alone: titles hold the others."""
        with self.file.open("rb") as file:
            position = self.start
            if position:  # what began before is the block's before
                file.seek(position - 1)
                position += len(file.readline()) - 1
            while position < self.end and (line := file.readline()):
                position += len(line)
                yield line


@dataclasses.dataclass(frozen=True)
class CatalogReader(abc.ABC):
    """A folder of products."""

    folder: str

    @abc.abstractmethod
    def files(self) -> list[epath.Path]:
        """The files whose lines are records, in a fixed order."""

    @abc.abstractmethod
    def parse(self, raw: RawLine) -> Product:
        """The product of a line; raises RejectedRecord."""

    def lines(self) -> Iterator[RawLine]:
        """Every line that isn't blank, in order."""
        for block in self.blocks():
            yield from self.lines_of(block, 1)

    def lines_of(self, block: Block, first: int) -> Iterator[RawLine]:
        """Those of a block whose first line has the number `first` in its file."""
        for number, data in enumerate(block.lines(), first):
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if data.strip():
                yield RawLine(block.file.name, number, data)

    def blocks(self, size: int | None = None) -> list[Block]:
        """All that there is to read in order, in blocks of `size` bytes; None: a block a file."""
        blocks = []
        for file in self.files():
            length = file.stat().length
            step = size or max(length, 1)
            blocks += [
                Block(file, start, min(start + step, length)) for start in range(0, length, step)
            ]
        return blocks

    def read_picture(self, relative: str) -> bytes:
        """The bytes of a picture file; b"" where the path is "" or the file is not there.

        Raises:
          RejectedRecord: outside_folder, bad_picture, too_large_picture.
        """
        if not relative:
            return b""
        path = inside(epath.Path(self.folder), relative)
        try:
            if not path.exists():
                return b""
            # Reading one would wait for ever.
            if not remote.is_remote(path) and pathlib.Path(path).is_fifo():
                raise InvalidRecordError("bad_picture", f"{relative!r} is not a file")
            if (length := path.stat().length) > MAX_BYTES:
                raise InvalidRecordError(
                    "too_large_picture", f"{length} bytes; at most {MAX_BYTES}"
                )
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidRecordError("bad_picture", f"{relative!r}: {error}") from error


class JsonlReader(CatalogReader):
    """`products.jsonl`, one JSON object a line, and the pictures it names by relative path."""

    def files(self) -> list[epath.Path]:
        """The one file that holds the records."""
        path = epath.Path(self.folder) / "products.jsonl"
        if not path.exists():
            raise UserError(f"--input: there is no products.jsonl in {self.folder}")
        return [path]

    def parse(self, raw: RawLine) -> Product:
        """The product of a line; keys that it doesn't know are left alone."""
        try:
            record = json.loads(_decoded(raw))
        except (ValueError, RecursionError) as error:
            raise InvalidRecordError("not_json", str(error)) from error
        if not isinstance(record, dict):
            raise InvalidRecordError(
                "wrong_type", f"the line is {type(record).__name__}, not an object"
            )
        images = record.get("images") or []
        if not isinstance(images, list):
            raise InvalidRecordError("wrong_type", f"images is {type(images).__name__}, not a list")
        keys = ("id", "title", "triples", "product", "category", "split", "source")
        return make_product(
            # Further views are for tasks that compare views: a product is shown by its first.
            picture=images[0] if images else None,
            **{key: record.get(key) for key in keys},
        )


class ReleaseReader(CatalogReader):
    """The public K3M release's TSV, one file per split, of products without picture files."""

    def files(self) -> list[epath.Path]:
        """One file per split, named after it."""
        files = sorted(epath.Path(self.folder).glob("*.tsv"))
        if not files:
            raise UserError(f"--input: there is no .tsv file, such as train.tsv, in {self.folder}")
        return files

    def parse(self, raw: RawLine) -> Product:
        """The product of a line; the file names its split, and the picture's address isn't read."""
        columns = _decoded(raw).rstrip("\r\n").split("\t")
        if len(columns) != 5:
            raise InvalidRecordError(
                "wrong_columns", f"{len(columns)} columns, not id, title, image, triples, category"
            )
        id_, title, _, triples, category = columns
        pairs = [pair.split("#:#", 1) for pair in triples.split("#;#")] if triples.strip() else []
        for i, pair in enumerate(pairs):
            if len(pair) != 2:
                raise InvalidRecordError(
                    "bad_triple", f"triples[{i}] has no '#:#': {pair[0]!r:.60}"
                )
        return make_product(
            id=id_.strip(),
            title=title,
            triples=pairs,
            category=category,
            split=raw.file.removesuffix(".tsv"),
            source="release",
        )


FORMATS = {"jsonl": JsonlReader, "release": ReleaseReader}


def open_catalog(format_name: str, folder: epath.PathLike) -> CatalogReader:
    """The catalogue in `folder`; raises UserError where it isn't one."""
    if format_name not in FORMATS:
        raise UserError(f"--format: {format_name!r} is not one of {', '.join(FORMATS)}")
    if not epath.Path(folder).is_dir():
        raise UserError(f"--input: {folder} is not a folder")
    catalogue = FORMATS[format_name](str(folder))
    catalogue.files()
    return catalogue


def inside(folder: epath.Path, relative: str) -> epath.Path:
    """`folder / relative`, which must stay in the folder, links followed.

    A directory that is linked right into the folder is part of it: pictures often lie on another
    disk, and a link there is its owner's doing.

    Raises:
      RejectedRecord: outside_folder.
    """
    parts = relative.replace("\\", "/").split("/")
    if "\0" in relative or ".." in parts or "://" in relative or not parts[0]:
        raise InvalidRecordError("outside_folder", f"{relative!r} is not a path inside the folder")
    if not remote.is_remote(folder):  # a store has no links to follow
        roots = [os.path.realpath(folder)]
        if len(parts) > 1:
            roots.append(os.path.realpath(folder / parts[0]))
        real = os.path.realpath(folder / relative)
        if all(os.path.commonpath([root, real]) != root for root in roots):
            raise InvalidRecordError("outside_folder", f"{relative!r} leads out of the folder")
    return folder / relative


def _decoded(raw: RawLine) -> str:
    try:
        return raw.data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecordError("not_utf8", str(error)) from error
