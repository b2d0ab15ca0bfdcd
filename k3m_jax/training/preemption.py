"""Being told to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to go on


class Preemption:
    """Whether a run was told to stop.

    Attributes:
      numbers: the signals that tell it; of several processes, jax's service holds SIGTERM.
    """

    def __init__(self):
        self._told, self._several = False, jax.process_count() > 1
        self._first: int | None = None  # step that was asked about
        self.numbers = (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT)

    def should_stop(self, step: int) -> bool:
        """Whether the run stops after `step` steps; to be asked after each of them.

        One process stops after the step that it is in when it is told. Of several, one that is
        told is enough, and all stop after the same step: jax's preemption service finds one that
        none of them has passed.

        Args:
          step: the first that is asked about is the same in all processes.
        """
        if not self._several:
            return self._told
        if self._first is None:
            self._first = step
        # The service takes a process that has not asked yet to be at 0: where one is told so early,
        # all stop at 1, which must be the first that they ask about, wherever the run goes on from.
        return multihost_utils.reached_preemption_sync_point(step - self._first + 1)

    def request_stop(self) -> None:
        """The run stops after the step that it is in."""
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)  # what jax's service listens to
        self._told = True


@contextlib.contextmanager
def watch_signals() -> Iterator[Preemption]:
    """The first SIGTERM or SIGINT is only noted; a second one does what it always does.

    With several processes jax notes SIGTERM, any number of them.
    """
    preemption, before = Preemption(), {}

    def note(number: int, _) -> None:
        signal.signal(number, before[number])
        preemption.request_stop()

    for number in preemption.numbers:
        before[number] = signal.signal(number, note)
    try:
        yield preemption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
