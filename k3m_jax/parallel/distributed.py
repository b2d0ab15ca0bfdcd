"""Several processes that train as one: how they find each other, who speaks, and how they end."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator

import jax

from k3m_jax import settings
from k3m_jax.parallel.watchdog import END, Watchdog
from k3m_jax.settings import UserError

# Seconds without a sign of life after which jax takes a process for dead, and that a process which
# ends waits for the others (jax's default for the former), where `distributed.timeout` is no less.
SILENCE = 100

_witness: Watchdog | None = None  # of this process; a process is part of one run


@contextlib.contextmanager
def initialize(distributed: settings.Distributed, *, saves: bool = False) -> Iterator[None]:
    """Around all that a process does in a run; to be entered before jax touches a device.

    Where the settings or the cluster name several processes, this waits for all of them. Whatever
    then ends one of them, or holds it up for longer than `distributed.timeout`, ends them all, each
    with an error that names the place (`at`) where it stood.

    Args:
      distributed: the settings.
      saves: what runs asks `training.preemption` whether to stop, so SIGTERM is left to jax, which
        notes it; else it ends a process of several as it ends one alone.

    Raises:
      UserError: the settings do not fit the cluster, or jax can't start the processes.
    """
    global _witness
    if distributed.coordinator == "off":
        yield
        return
    # Before jax: if the others do not come, jax ends the process without a word to Python.
    witness, several = Watchdog(distributed.timeout), False
    witness.at("the start, where it waits for the others")
    try:
        several = _initialize(distributed) and jax.process_count() > 1
    finally:
        if not several:
            witness.dismiss()
    if not several:
        yield
        return
    if not saves:  # jax has put a handler of its own there, which only notes it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    witness.name = f"process {jax.process_index()} of {jax.process_count()}"
    _witness = witness
    heartbeat("the preparation of the run")
    try:
        with abort_together():
            yield
    except UserError:
        heartbeat(END)  # its one line says all
        raise
    heartbeat(END)


@contextlib.contextmanager
def abort_together() -> Iterator[None]:
    """Around what no process can do without the others: where it fails, this one ends at once.

    To end in order it would wait for them, jax at its end and a checkpoint under way at its own,
    and they for it. A UserError is raised to all alike. Without effect in a run of one.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException:
        if _witness is None:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def heartbeat(place: str) -> None:
    """Says where this process stands: what it would wait for if another process were gone.

    Each call starts the clock of `distributed.timeout` anew. Without effect in a run of one.
    """
    if _witness is not None:
        _witness.at(place)


def is_lead_process() -> bool:
    """Whether this process is the one that writes and prints for all."""
    return jax.process_index() == 0


def _initialize(distributed: settings.Distributed) -> bool:
    """Starts jax's side; False where there is no cluster."""
    automatic = distributed.coordinator == "auto"
    explicit = {
        "coordinator_address": distributed.coordinator,
        "num_processes": distributed.processes,
        "process_id": distributed.process,
        "cluster_detection_method": "deactivate",  # it would take one device for each process
    }
    silence = min(SILENCE, distributed.timeout)
    try:
        jax.distributed.initialize(
            **({} if automatic else explicit),
            initialization_timeout=distributed.timeout,
            heartbeat_timeout_seconds=silence,
            shutdown_timeout_seconds=silence,
        )
    except (RuntimeError, ValueError) as error:
        # jax has no other way to say that it found no cluster.
        if automatic and str(error).startswith("coordinator_address should be defined"):
            return False
        raise UserError(
            f"distributed.coordinator={distributed.coordinator}: {' '.join(str(error).split())}; "
            "off is a run of one process"
        ) from error
    return True
