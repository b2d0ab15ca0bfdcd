"""One writer per folder: a lock file that says who writes, and that this one is alive.

It works where several machines share a file system: the owner touches its file every few seconds,
and whoever comes next watches the file for longer than that. An owner that was killed is replaced:
at once on the same machine, where its process is seen to be gone, elsewhere once its file has not
been touched. Clocks of machines are not compared.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from k3m_jax.data.store.remote import is_remote
from k3m_jax.settings import UserError

REFRESH = 5.0  # seconds between two touches of the file
PATIENCE = 30.0  # seconds that the file of another machine is watched


class FolderInUseError(UserError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def hold(path: epath.PathLike, flag: str) -> Iterator[None]:
    """Around all writing to the folder of a lock file, which is made if need be.

    Raises FolderInUseError, which names the owner, and UserError where nothing can be written;
    both name `flag`, the command line's name of the folder.
    """
    path, token = epath.Path(path), uuid.uuid4().hex
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(path, flag, token)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{flag}: {path.parent} can't be written: {reason}") from error
    ended = threading.Event()
    thread = threading.Thread(target=_keep_alive, args=(path, token, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            if _read(path).get("token") == token:
                path.unlink()


def _acquire(path: epath.Path, flag: str, token: str) -> None:
    for _ in range(10):  # others may try at the same time
        try:
            _create(path, json.dumps(_myself() | {"token": token}))
            return
        except FileExistsError:
            owner = _read(path)
        if not owner and not path.exists():
            continue
        named = "process {} on {}, since {}".format(
            *(owner.get(key, "unknown") for key in ("pid", "host", "since"))
        )
        if _is_alive(path, owner):
            wait = f"wait for it, or choose another {flag}"
            raise FolderInUseError(f"{flag}: {path.parent} is in use by {named}: {wait}")
        print(f"taking over {path.parent} from {named}, which is gone", file=sys.stderr)
        _remove(path, owner)
    raise FolderInUseError(f"{flag}: {path.parent} is in use: {path} does not stay away")


def _create(path: epath.Path, content: str) -> None:
    """Writes the file; raises FileExistsError where there is one."""
    if is_remote(path):  # a store has no exclusive creation: of two at once, the last one stays
        if path.exists():
            raise FileExistsError(path)
        path.write_text(content)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _is_alive(path: epath.Path, owner: dict[str, Any]) -> bool:
    mine = _myself()
    if owner.get("machine") == mine["machine"]:
        return _started(owner["pid"]) == owner.get("started")
    print(f"{path} is of another machine: watching it for {PATIENCE:g} s", file=sys.stderr)
    before, deadline = _pulse(path), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, PATIENCE / 4))
        if _pulse(path) != before:
            return True
    return False


def _remove(path: epath.Path, owner: dict[str, Any]) -> None:
    """Removes a dead owner's file, and not that of one who was quicker to replace it."""
    if is_remote(path):
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _read(aside) != owner:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _keep_alive(path: epath.Path, token: str, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(REFRESH):
        with contextlib.suppress(OSError):  # a full disk is for the writers to report
            owner = _read(path)
            if owner and owner.get("token") != token:
                host = owner.get("host")
                message = f"{path.parent} was taken over by process {owner.get('pid')} on {host}"
                print(f"\nerror: {message}: this one ends", file=sys.stderr, flush=True)
                os._exit(2)
            if is_remote(path):
                beat += 1
                path.write_text(json.dumps(owner | {"beat": beat}))
            else:
                os.utime(path)


def _pulse(path: epath.Path) -> Any:
    """What changes when the owner touches its file."""
    with contextlib.suppress(OSError):
        if is_remote(path):
            return path.read_text()
        with open(path, "rb") as file:  # opening it makes a network file system look
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    return None


def _read(path: epath.Path) -> dict[str, Any]:
    """The owner; empty where there is none or the file is not whole."""
    try:
        owner = json.loads(path.read_text())
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError):
        return {}


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _machine() -> str:
    """What two processes share that can see each other: containers of one host do not."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's words; None where there is none.

    Numbers of processes are used again.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    with contextlib.suppress(OSError):
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return "gone" if fields[0] == "Z" else fields[19]
    return "unknown"
