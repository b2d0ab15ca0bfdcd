"""Disks that fail: told from faults of the program, and said in one line."""

import contextlib
import errno
import os
import shutil
from collections.abc import Container, Iterator

from k3m_jax.settings import DiskError, UserError

# What a disk or a store answers that is full or fails: no fault of the files on it, nor of ours.
FAILING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # full
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT),  # gone
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # not to be written, or read
    *(errno.EMFILE, errno.ENFILE),
}
# A path that is something other than the user thinks.
MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


def disk_failure(error: BaseException | None, numbers: Container[int] = FAILING) -> str:
    """What is wrong with a disk, from an error or one of its causes; "" where nothing is.

    Libraries in C++ raise errors of other types, with the system's words in them.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            where = f"{os.fspath(error.filename)}: " if error.filename else ""
            return f"{where}{error.strerror or error}"
        if isinstance(error, PermissionError | TimeoutError):
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES):
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def run_in(folder: os.PathLike | str) -> Iterator[None]:
    """Around a run that writes to a folder: in one line, as a DiskError, what a disk fails at."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # TensorStore's have no type of their own
        if not (failure := disk_failure(error)):
            raise
        hint = "what is saved stays: make room or repair the disk, and run the same command again"
        raise DiskError(f"the run in {folder} ended, {failure}: {hint}") from error


def check_space(folder: os.PathLike | str, needed: int, what: str) -> None:
    """Raises DiskError where a local folder's disk has less than `needed` bytes left for `what`."""
    if "://" in os.fspath(folder):
        return
    if (free := shutil.disk_usage(folder).free) < needed:
        room = f"{what} takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
        raise DiskError(f"{folder}: {room}: make room, or choose another folder")
