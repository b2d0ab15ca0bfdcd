"""Whether the files of a data set are those that were built.

build.json has the size and a digest of each other file. Small files are read whole when a data set
is opened; of shards and archives, whose records have checksums of their own, the ends are, which
tells a file of another split or another data set, and one that was cut.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from k3m_jax.data.store.remote import files_below, is_remote
from k3m_jax.settings import UserError

ENDS = 1 << 16  # bytes of each end
CHECKSUMMED = (".array_record", ".npz")  # in the names of files that are read by their ends
THREADS = 16
HINT = "copy the data set again, or build it again"


def describe(folder: epath.Path, without: Iterable[str] = ()) -> dict[str, list[Any]]:
    """[size, digest] of each file below a folder, by its path in it."""
    paths = {str(path.relative_to(folder)): path for path in files_below(folder)}
    return {name: described(path) for name, path in paths.items() if name not in without}


def check(folder: epath.Path, files: Mapping[str, list[Any]]) -> None:
    """Raises UserError for the first file that is missing, cut or another; of a store, by size."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for problem in pool.map(lambda item: _problem(folder, *item), files.items()):
            if problem:
                raise UserError(f"{problem}: {HINT}")


def seal(content: Mapping[str, Any]) -> str:
    """A digest of what JSON says, without its own key `seal`."""
    content = {key: value for key, value in content.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _problem(folder: epath.Path, name: str, expected: list[Any]) -> str:
    path, (size, digest) = folder / name, expected
    try:
        found = path.stat().length
        if found != size:
            return f"{path} has {found:,} bytes, not the {size:,} that were built"
        if not is_remote(folder) and _digest(path, size) != digest:
            return f"{path} is not the file that was built"
    except FileNotFoundError:
        return f"{path} is missing"
    return ""


def described(path: epath.Path) -> list[Any]:
    """[size, digest] of a file."""
    size = path.stat().length
    return [size, _digest(path, size)]


def _digest(path: epath.Path, size: int) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if any(kind in path.name for kind in CHECKSUMMED) and size > 2 * ENDS:
            found.update(file.read(ENDS))
            file.seek(size - ENDS)
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()
