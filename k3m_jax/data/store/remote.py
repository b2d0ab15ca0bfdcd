"""Paths of remote stores, gs:// and others that epath reaches, where only a local disk will do.

Whole files are read and written there, and nothing is appended to.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from etils import epath
from tqdm import tqdm

from k3m_jax.data.store import literal_folders  # noqa: F401  (mends epath)
from k3m_jax.settings import UserError

COPIES = 16  # at a time
IN_PLACE = "gs://"  # the store that ArrayRecord reads itself


def is_remote(path: epath.PathLike) -> bool:
    """Whether it lies in a store and not in a file system."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path whatever the working folder; to pathlib remote paths are relative ones."""
    return epath.Path(path if is_remote(path) else os.path.abspath(path))


def files_below(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder, in a fixed order; epath can't search folders of folders."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from files_below(path)
        elif path.exists():  # else a link to nothing
            yield path


def sync(path: epath.PathLike) -> None:
    """Brings a file, or a folder with all in it, from the system's memory onto the local disk.

    What is renamed after that is whole even if the power is cut. Stores need no such thing.
    """
    if is_remote(path):
        return
    path = pathlib.Path(path)
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        sync_folder(each)


def sync_folder(path: epath.PathLike) -> None:
    """The same of one file's content, or of a folder's names, alone."""
    if is_remote(path):
        return
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some systems can't
                raise
        finally:
            os.close(descriptor)


def publish(path: epath.PathLike, text: str) -> None:
    """Writes a file that is there as a whole or, after a crash or a power cut, as it was before."""
    path = epath.Path(path)
    if is_remote(path):
        path.write_text(text)
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    sync(partial)
    partial.replace(path)
    sync_folder(path.parent)


class LocalFolder:
    """A local folder to write to, `path`, for what knows no epath; `push` brings it to a store."""

    def __init__(self, folder: epath.PathLike):
        self._folder = epath.Path(folder)
        self._temporary = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._pushed: dict[pathlib.Path, tuple[int, int]] = {}  # size and time of each file
        self.path = pathlib.Path(self._temporary.name if self._temporary else self._folder)
        self.path.mkdir(parents=True, exist_ok=True)

    def push(self) -> None:
        """Copies new and changed files, whole."""
        for file in sorted(self.path.rglob("*")) if self._temporary else ():
            state = file.stat().st_size, file.stat().st_mtime_ns
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

    Raises UserError where there is something in it, or it can't be made.
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


def readable(files: Sequence[epath.Path], version: str, copy: str) -> epath.PathLike:
    """The folder from which ArrayRecord reads the files of one remote folder.

    A folder of TMPDIR for each `version` to which they are copied: with the `copy` always, and with
    auto where they fit on the disk or ArrayRecord can't read the store itself. Else their own. What
    an earlier run or another process has copied is not copied again. Raises UserError where the
    files do not fit, or with never the store can't be read.
    """
    in_place = os.fspath(files[0]).startswith(IN_PLACE)
    if copy == "never" and not in_place:
        raise UserError(f"data.copy=never: {files[0].parent} is no {IN_PLACE}: take auto or always")
    sizes = {file: file.stat().length for file in files}
    source = next(iter(sizes)).parent
    key = hashlib.sha256(f"{source}\0{version}".encode()).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir()) / f"k3m_shards-{os.getuid()}" / key
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name: path.stat().st_size for path in folder.iterdir()}
    missing = [file for file, size in sizes.items() if there.get(file.name) != size]
    needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(folder).free
    if copy == "never" or (copy == "auto" and in_place and needed > free):
        return source
    if needed > free:
        room = f"{needed / 1e9:.1f} GB of shards, but {folder} has {free / 1e9:.1f} GB left"
        hint = "name a larger disk in TMPDIR, or mount the store as a file system (docs/data.md)"
        raise UserError(f"{source}: {room}: {hint}")
    if missing:
        with concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
            copied = pool.map(lambda file: _copy(file, folder / file.name), missing)
            list(tqdm(copied, f"copying {source} to {folder}", len(missing), unit=" files"))
    return folder


def _copy(source: epath.Path, target: pathlib.Path) -> None:
    # Complete under its name or not there at all, whatever else copies it at the same time.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source.copy(pathlib.Path(folder) / target.name)
        (pathlib.Path(folder) / target.name).replace(target)
