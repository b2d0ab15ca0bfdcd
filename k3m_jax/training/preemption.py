"""Being told to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

import contextlib
import signal
from collections.abc import Iterator

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to go on


class Preemption:
    """True once the process was told to stop."""

    def __init__(self):
        self._told = False

    def __bool__(self) -> bool:
        return self._told

    def tell(self) -> None:
        """The run stops after the step that it is in."""
        self._told = True


@contextlib.contextmanager
def watch_signals() -> Iterator[Preemption]:
    """The first SIGTERM or SIGINT is only noted; a second one does what it always does."""
    preemption, before = Preemption(), {}

    def note(number: int, _) -> None:
        preemption.tell()
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    try:
        yield preemption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
