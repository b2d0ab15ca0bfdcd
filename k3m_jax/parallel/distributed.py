"""Several processes that train as one: how they find each other, which one prints, how they end."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator

import jax

from k3m_jax import settings
from k3m_jax.parallel.watchdog import END, Watchdog
from k3m_jax.settings import DiskError, UserError

# Seconds after which jax takes a silent process for dead, its default, and that an ending process
# waits for the others; less if `distributed.timeout` is.
SILENCE = 100
EXIT_DISK_ERROR = 74  # EX_IOERR of sysexits.h: run the same command again once the disk works

_watchdog: Watchdog | None = None  # of this process; a process is part of one run
_several = False  # whether this process is one of several of a run


@contextlib.contextmanager
def initialize(distributed: settings.Distributed, *, saves: bool = False) -> Iterator[None]:
    """Around all that a process does in a run; to be entered before jax touches a device.

    Where the settings or the cluster name several processes, this waits for all of them. Whatever
    then ends one of them, or blocks it for longer than `distributed.timeout`, ends them all, each
    with an error that names its place (`heartbeat`). SIGTERM ends one of several processes as it
    ends a single one, unless the run checks `watch_signals` and `saves`: jax notes it. A run of one
    process is ended likewise where it hangs, if it `saves`.

    Raises UserError if the settings do not fit the cluster, or jax can't start the processes.
    """
    global _watchdog, _several
    watchdog = None
    if saves or distributed.coordinator != "off":
        # Before jax: if the others do not come, jax ends the process without returning to Python.
        watchdog = Watchdog(distributed.timeout)
        watchdog.heartbeat("the start, where it waits for the others")
    try:
        if distributed.coordinator != "off":
            _several = _join_cluster(distributed) and jax.process_count() > 1
    except BaseException:
        watchdog.stop()
        raise
    if watchdog and not (_several or saves):
        watchdog.stop()
    if _several:
        if not saves:  # jax has installed a handler that only notes it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watchdog.name = f"process {jax.process_index()} of {jax.process_count()}"
    _watchdog = watchdog if _several or saves else None
    heartbeat("the preparation of the run")
    try:
        with abort_together():
            yield
    finally:  # of several processes, only if it ended in order or by a UserError
        heartbeat(END)
        if not _several and _watchdog:
            _watchdog.stop()
            _watchdog = None


@contextlib.contextmanager
def abort_together() -> Iterator[None]:
    """Around what no process can do without the others: where it fails, this process exits at once.

    An orderly end would wait for the others, which wait for this one. A UserError is raised in all
    processes alike. Without effect in a run of one.
    """
    try:
        yield
    except BaseException as error:
        alike = isinstance(error, UserError) and not isinstance(error, DiskError)
        if not _several or alike:
            raise
        if isinstance(error, DiskError):
            print(f"\nerror: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_DISK_ERROR if isinstance(error, DiskError) else 1)


def heartbeat(place: str) -> None:
    """Reports where this process is: what it would wait for if another process were gone.

    Each call restarts the clock of `distributed.timeout`. Without effect where nothing watches.
    """
    if _watchdog is not None:
        _watchdog.heartbeat(place)


def is_lead_process() -> bool:
    """Whether this process is the one that writes and prints for all."""
    return jax.process_index() == 0


def _join_cluster(distributed: settings.Distributed) -> bool:
    """Starts jax's side; False where there is no cluster."""
    silence = min(SILENCE, distributed.timeout)
    automatic, explicit = distributed.coordinator == "auto", {}
    if not automatic:
        explicit = {
            "coordinator_address": distributed.coordinator,
            "num_processes": distributed.processes,
            "process_id": distributed.process,
            "cluster_detection_method": "deactivate",  # would take one device for each process
        }
    try:
        jax.distributed.initialize(
            **explicit,
            initialization_timeout=distributed.timeout,
            heartbeat_timeout_seconds=silence,
            shutdown_timeout_seconds=silence,
        )
    except (RuntimeError, ValueError) as error:
        # jax has no other way to say that it found no cluster.
        if automatic and str(error).startswith("coordinator_address should be defined"):
            return False
        reason = " ".join(str(error).split())
        coordinator = f"distributed.coordinator={distributed.coordinator}"
        raise UserError(f"{coordinator}: {reason}; off is a run of one process") from error
    return True
