"""Worker processes: one function over many inputs, in order and in bounded memory."""

import collections
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any

import threadpoolctl

CHUNK = 16  # inputs per message
AHEAD = 4  # chunks under way per worker

_function: Callable[[Any], Any]


def ordered_map(function: Callable, inputs: Iterable, workers: int) -> Iterator:
    """`map(function, inputs)` in `workers` processes; 0 is in this one.

    `function` must pickle; it is sent once to each worker. Inputs are drawn no faster than results
    are taken. A worker that dies raises BrokenProcessPool instead of waiting for ever.
    """
    if not workers:
        # Products of one picture's patches are small: where cores are shared, BLAS threads that
        # spin for each other have made a build a hundred times slower.
        with threadpoolctl.threadpool_limits(1):
            yield from map(function, inputs)
        return
    # Spawned, not forked: the parent has threads (the array record writer's, jax's under grain).
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _install, (function,))
    try:
        pending: collections.deque[Future] = collections.deque()
        inputs = iter(inputs)
        while chunk := list(itertools.islice(inputs, CHUNK)):
            pending.append(pool.submit(_apply, chunk))
            if len(pending) >= AHEAD * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def leave_signals_to_parent() -> None:
    """For a worker whose parent ends in order on a signal, and closes its workers then.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a job: a worker that died of it would
    take the parent's last batches with it. What ends this worker is its parent, also if killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _install(function: Callable) -> None:
    global _function
    _function = function
    threadpoolctl.threadpool_limits(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker holds both ends of its queues, so that a killed parent would not end it."""
    parent_process().join()
    os._exit(1)


def _apply(chunk: list) -> list:
    return [_function(value) for value in chunk]
