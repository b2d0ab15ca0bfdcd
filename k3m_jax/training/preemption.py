"""Requests to stop a run, which ends in order and goes on where it is started again."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to go on


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[int], bool]]:
    """Yields `should_stop(step)`, to be called after each step: does the run stop after it?

    A first SIGTERM or SIGINT is only noted; a second one does what it always does. Of several
    processes all stop after the same step; their first calls must be of the same step.
    """
    requested, first_step, several = False, None, jax.process_count() > 1
    # Of several processes, jax's preemption service notes SIGTERM, any number of them.
    numbers = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _) -> None:
        nonlocal requested
        signal.signal(number, before[number])
        requested = True
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def should_stop(step: int) -> bool:
        nonlocal first_step
        if not several:
            return requested
        first_step = step if first_step is None else first_step
        # The service takes a process that has not called yet to be at step 0: on an early request
        # all stop at 1, so the first call must say 1, wherever the run resumes from.
        return multihost_utils.reached_preemption_sync_point(step - first_step + 1)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield should_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
