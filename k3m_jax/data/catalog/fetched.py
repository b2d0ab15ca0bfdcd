"""Pictures that `launch.fetch_pictures` brought: files named by their content, and an index.

The index says which file each address has become, or why there is none, and survives a kill.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Annotated

from etils import epath

from k3m_jax.data.records import InvalidRecordError, Product, RejectedLine
from k3m_jax.modalities import pixels
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, Range, option

INDEX = "fetched.sqlite"
FETCHED = "fetched"  # the cause of an address that has a file


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is asked of other machines, and how much is taken from them."""

    at_once: PositiveInt = option(32, "requests at a time")
    per_host: PositiveInt = option(4, "requests at a time to one host")
    retries: NonNegativeInt = option(3, "further tries of what may pass, such as HTTP 429 and 503")
    timeout: Annotated[float, Range(0.1)] = option(30.0, "seconds without a byte; 10 x that in all")
    max_bytes: PositiveInt = option(pixels.MAX_BYTES, "largest file of a picture")
    private_addresses: bool = option(False, "also ask hosts of private networks, as 127.0.0.1")


def is_address(picture: str | bytes) -> bool:
    """Whether a picture is named by an address."""
    return isinstance(picture, str) and picture.lower().startswith(("http://", "https://", "//"))


def fetched_path(folder: epath.PathLike, address: str) -> str:
    """The file of an address, relative to the folder; InvalidRecordError: picture_not_fetched."""
    try:
        index = _open(os.fspath(folder))
        found = index.execute("SELECT cause, file FROM pictures WHERE address = ?", (address,))
        cause, file = found.fetchone() or ("it is not in the index", "")
    except sqlite3.Error:
        cause, file = "launch.fetch_pictures fetches it, --pictures names its folder", ""
    if cause != FETCHED:
        raise InvalidRecordError("picture_not_fetched", f"{address[:200]}: {cause}")
    return file


def addresses_of(products: Iterable[Product | RejectedLine], views: int) -> Iterator[str]:
    """The first `views` addresses of each product, 0 for all; rejected lines have none."""
    for product in products:
        if isinstance(product, Product):
            images = filter(is_address, product.sources["image"])
            yield from itertools.islice(images, views or None)


@functools.lru_cache(4)
def _open(folder: str) -> sqlite3.Connection:
    path = (pathlib.Path(folder) / INDEX).absolute().as_uri()
    return sqlite3.connect(f"{path}?mode=ro", uri=True, check_same_thread=False)


class Index:
    """The index as the fetcher writes it."""

    def __init__(self, folder: pathlib.Path):
        self._database = sqlite3.connect(folder / INDEX)
        columns = "address TEXT PRIMARY KEY, cause TEXT, file TEXT, detail TEXT"
        self._database.execute(f"CREATE TABLE IF NOT EXISTS pictures ({columns})")

    def add(self, addresses: Iterable[str]) -> None:
        """Adds addresses that it does not have yet."""
        rows = ((address, "", "", "") for address in addresses)
        self._database.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?)", rows)
        self.commit()

    def waiting(self, causes: Iterable[str]) -> Iterator[str]:
        """Addresses that were not tried yet, or failed for one of some causes; hosts are mixed."""
        wanted = ["", *causes]
        marks = ",".join("?" * len(wanted))
        query = f"SELECT address FROM pictures WHERE cause IN ({marks}) ORDER BY RANDOM()"
        # As a list: what is being written to must not be read.
        return (address for (address,) in self._database.execute(query, wanted).fetchall())

    def put(self, address: str, cause: str, file: str, detail: str) -> None:
        """Says what has become of an address."""
        query = "UPDATE pictures SET cause = ?, file = ?, detail = ? WHERE address = ?"
        self._database.execute(query, (cause, file, detail, address))

    def commit(self) -> None:
        """Brings it to the disk."""
        self._database.commit()

    def counts(self) -> dict[str, int]:
        """Addresses by cause, the commonest first."""
        query = "SELECT cause, COUNT(*) FROM pictures GROUP BY cause ORDER BY 2 DESC"
        return dict(self._database.execute(query).fetchall())

    def failures(self) -> Iterator[tuple[str, str, str]]:
        """(address, cause, detail) of those without a file."""
        query = "SELECT address, cause, detail FROM pictures WHERE cause != ? ORDER BY cause, 1"
        return iter(self._database.execute(query, (FETCHED,)))

    def close(self) -> None:
        """Commits and closes."""
        self.commit()
        self._database.close()
        _open.cache_clear()
