"""Catalog readers: folders of products as others wrote them, line by line.

`lines()` is cheap and lazy; workers share `read(line)`, which depends on the line alone.
"""

import abc
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from etils import epath

from k3m_jax.data.catalog.fetched import fetched_path, is_address
from k3m_jax.data.records import InvalidRecordError, Product, RejectedLine, check_strict
from k3m_jax.data.store import remote
from k3m_jax.modalities import REGISTRY
from k3m_jax.modalities.pixels import MAX_BYTES
from k3m_jax.settings import UserError

T = TypeVar("T")


class RawLine(NamedTuple):
    """One line of a catalog as it is in the file, and where that is."""

    file: str
    line: int  # from 1
    data: Any  # bytes; of a table its row
    offset: int = 0  # in bytes; of a table the row group, -1 without


class CatalogReader(abc.ABC):
    """A folder of products; pickles, and takes registered modalities into new processes."""

    def __init__(self, folder: epath.PathLike, *, strict: bool = False, pictures: str = ""):
        """`strict` rejects a record of which a part would be repaired or left out.

        `pictures` is the folder that paths of pictures begin at, if not `folder`.
        """
        self.folder, self.strict = epath.Path(folder), strict
        self.pictures = epath.Path(pictures or self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "modalities": dict(REGISTRY)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        REGISTRY.update(state.pop("modalities"))
        vars(self).update(state)

    @abc.abstractmethod
    def files(self) -> list[epath.Path]:
        """The files whose lines are products, in a fixed order; UserError where there is none."""

    @abc.abstractmethod
    def fields(self, raw: RawLine, repairs: list[str]) -> Mapping[str, Any]:
        """What a line says, for `Product.parse`; raises InvalidRecordError."""

    def read(self, raw: RawLine) -> Product | RejectedLine:
        """The product of a line, or why there is none."""
        try:
            repairs: list[str] = []
            product = Product.parse(self.fields(raw, repairs), repairs)
            if self.strict:
                check_strict(product.repairs)
            return product
        except UnicodeDecodeError as error:
            return RejectedLine(raw.file, raw.line, "not_utf8", str(error))
        except InvalidRecordError as error:
            return RejectedLine(raw.file, raw.line, *error.args)

    def lines(self) -> Iterator[RawLine]:
        """Every line that isn't blank, in order."""
        for file in self.files():
            yield from self.lines_from(file)

    def lines_from(self, file: epath.Path, line: int = 1, offset: int = 0) -> Iterator[RawLine]:
        """The lines of a file from one on, which begins at a byte; titles hold other separators."""
        with file.open("rb") as opened:
            opened.seek(offset)
            for number, data in enumerate(opened, line):
                start, offset = offset, offset + len(data)
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                if data.strip():
                    yield RawLine(file.name, number, data, start)

    def blocks(self, lines: int) -> Iterator[tuple[epath.Path, int, int, int | None]]:
        """Parts for many machines: the file, line and byte where one begins, and how many lines."""
        for file in self.files():
            for raw in itertools.islice(self.lines_from(file), None, None, lines):
                yield file, raw.line, raw.offset, lines

    def first_picture(
        self, images: Sequence[str | bytes], decode: Callable[[bytes], T], repairs: list[str]
    ) -> tuple[T | None, str]:
        """The first of an item's pictures that loads, decoded, and its path; None where none does.

        What is wrong with those before it is noted in `repairs`.
        """
        paths = [image if isinstance(image, str) else "" for image in images]
        for image, path in zip(images, paths, strict=True):
            try:
                if data := image if isinstance(image, bytes) else self.read_picture(image):
                    return decode(data), path
                repairs.append(f"picture_not_found: {path[:200]}")
            except InvalidRecordError as error:
                repairs.append(f"{error.reason}: {error.detail}")
        return None, paths[0] if paths else ""

    def read_picture(self, relative: str) -> bytes:
        """The bytes of a picture file; b"" where the path is "" or the file is not there.

        Raises InvalidRecordError: outside_folder, bad_picture, too_large_picture,
        picture_not_fetched.
        """
        if not relative:
            return b""
        if is_address(relative):
            relative = fetched_path(self.pictures, relative)
        path = inside(self.pictures, relative)
        try:
            if not path.exists():
                return b""
            # Reading a pipe would wait for ever, a device would not end.
            if not remote.is_remote(path) and not pathlib.Path(path).is_file():
                raise InvalidRecordError("bad_picture", f"{relative!r} is not a file")
            if (size := path.stat().length) > MAX_BYTES:
                raise InvalidRecordError("too_large_picture", f"{size} bytes, not {MAX_BYTES}")
            if not size:
                raise InvalidRecordError("bad_picture", f"{relative!r} is an empty file")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidRecordError("bad_picture", f"{relative!r}: {error}") from error


class JsonlReader(CatalogReader):
    """`products.jsonl`, one JSON object a line, and the pictures it names by relative path."""

    def files(self) -> list[epath.Path]:
        """The one file."""
        path = self.folder / "products.jsonl"
        if not path.exists():
            raise UserError(f"--input: there is no products.jsonl in {self.folder}")
        return [path]

    def fields(self, raw: RawLine, repairs: list[str]) -> Mapping[str, Any]:
        """The object; of a key said twice the last counts, and others that none knows don't."""

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            if len(found := dict(pairs)) < len(pairs):
                repairs.append(f"repeated_key: of {', '.join(key for key, _ in pairs)[:80]}")
            return found

        try:
            fields = json.loads(raw.data.decode(), object_pairs_hook=unique)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise InvalidRecordError("not_json", str(error)) from error
        if not isinstance(fields, dict):
            raise InvalidRecordError("wrong_type", f"{type(fields).__name__}, not an object")
        return fields


FORMATS: dict[str, type[CatalogReader]] = {"jsonl": JsonlReader}


def open_catalog(format_name: str, folder: epath.PathLike, **options: Any) -> CatalogReader:
    """The catalog in `folder`; raises UserError where it isn't one.

    The options are those of the format's reader; `mapping` is of tables alone.
    """
    if format_name not in FORMATS:
        raise UserError(f"--format: {format_name!r} is not one of {', '.join(FORMATS)}")
    if not epath.Path(folder).exists():
        raise UserError(f"--input: {folder} does not exist")
    if format_name != "table":
        if not epath.Path(folder).is_dir():
            raise UserError(f"--input: {folder} is not a folder")
        if options.pop("mapping", ""):
            raise UserError("--mapping is of --format=table alone")
    catalog = FORMATS[format_name](folder, **options)
    catalog.files()
    return catalog


def inside(folder: epath.Path, relative: str) -> epath.Path:
    """`folder / relative`, which must stay in the folder, links followed.

    A directory that is linked directly into the folder is part of it: pictures often lie on another
    disk. Raises InvalidRecordError: outside_folder.
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
