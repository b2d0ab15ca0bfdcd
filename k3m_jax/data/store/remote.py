"""Paths of remote stores, gs:// and what else epath reaches, where only a local disk will do.

Whole files are read and written there, and nothing is appended to. Programs that know no epath
(ArrayRecord, TensorBoard, jax's profiler) write to a local folder, whose files are brought over.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from etils import epath
from fsspec.registry import known_implementations
from tqdm import tqdm

from k3m_jax.settings import UserError

COPIES = 16  # at a time


def is_remote(path: epath.PathLike) -> bool:
    """Whether it lies in a store and not in a file system."""
    return "://" in os.fspath(path)


def is_lack_of_client(error: ImportError) -> bool:
    """Whether it was raised of a path whose store can't be reached with what is installed."""
    return str(error) in {store.get("err") for store in known_implementations.values()}


def absolute(path: epath.PathLike) -> epath.Path:
    """The path whatever the working folder; to pathlib remote paths are relative ones."""
    return epath.Path(path if is_remote(path) else os.path.abspath(path))


class LocalFolder:
    """A folder to write to as a local one; where it is remote, `push` brings over what is new.

    Attributes:
      path: write there.
    """

    def __init__(self, folder: epath.PathLike):
        """Makes the folder."""
        self._folder = epath.Path(folder)
        self._temporary = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._pushed: dict[pathlib.Path, tuple[int, int]] = {}  # size and time of each file
        self.path = pathlib.Path(self._temporary.name if self._temporary else self._folder)
        self.path.mkdir(parents=True, exist_ok=True)

    def push(self) -> None:
        """Copies new and changed files, whole."""
        if not self._temporary:
            return
        for file in sorted(self.path.rglob("*")):
            stat = file.stat()
            state = stat.st_size, stat.st_mtime_ns
            if file.is_file() and self._pushed.get(file) != state:
                target = self._folder / file.relative_to(self.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                epath.Path(file).copy(target, overwrite=True)
                self._pushed[file] = state

    def close(self) -> None:
        """Pushes, and removes what was temporary."""
        self.push()
        if self._temporary:
            self._temporary.cleanup()


def check_empty(folder: epath.PathLike) -> None:
    """Raises UserError where there is something already."""
    folder = epath.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output: {folder} exists and is not empty: choose another folder")


@contextlib.contextmanager
def whole_folder(folder: epath.PathLike) -> Iterator[pathlib.Path]:
    """A local folder to write to, which in the end becomes `folder`, and nothing after an error.

    Where `folder` is local it appears at once; to a store its files are copied one by one.

    Args:
      folder: must not exist, or be empty.

    Raises:
      UserError: there is something in it, or it can't be made.
    """
    check_empty(folder)
    if is_remote(folder):
        local = LocalFolder(folder)
        yield local.path
        local.close()
        return
    folder = pathlib.Path(os.path.abspath(folder))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output: {folder} can't be written: {error}") from error
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def local_copies(files: Iterable[epath.Path], version: str) -> pathlib.Path:
    """Copies files of one folder to this machine's disk and returns the folder that has them.

    What is there already, of an earlier run or another process of this machine, is not copied
    again. The disk is that of the system's temporary files, which the variable TMPDIR names.

    Args:
      files: of one remote folder.
      version: another one is another copy.

    Raises:
      UserError: they do not fit on the disk.
    """
    sizes = {file: file.stat().length for file in files}
    source = next(iter(sizes)).parent
    key = hashlib.sha256(f"{source}\0{version}".encode()).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir()) / f"k3m_shards-{os.getuid()}" / key
    folder.mkdir(parents=True, exist_ok=True)
    missing = [f for f, size in sizes.items() if not _is_there(folder / f.name, size)]
    needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{source}: {needed / 1e9:.1f} GB of shards, but {folder} has {free / 1e9:.1f} GB "
            "left: name a larger disk in TMPDIR, or mount the store as a file system (docs/data.md)"
        )
    if missing:
        with concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
            copied = pool.map(lambda file: _copy(file, folder / file.name), missing)
            list(tqdm(copied, f"copying {source} to {folder}", len(missing), unit=" files"))
    return folder


def _is_there(path: pathlib.Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _copy(source: epath.Path, target: pathlib.Path) -> None:
    # Complete under its name or not there at all, whatever else copies it at the same time.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source.copy(pathlib.Path(folder) / target.name)
        (pathlib.Path(folder) / target.name).replace(target)
