"""A small companion of a process: it says where the process stood when it died or stopped moving.

When one of several processes is gone, jax ends the others from C++, or they hang in a collective
that hears of nothing. Neither lets Python say a word. So a process tells a child, `Witness.at`,
where it stands; the child prints that place when the process dies, and ends the process when it
stays at one place for too long, were it stopped or its interpreter locked.

The child runs this file by itself, with the standard library alone, so that it starts at once.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

GRACE = 3  # seconds that a process has, once it is told to abort, to print its stacks
END = "the end"
AGAIN = "run the same command again to go on"


class Watchdog:
    """The process' side: starts the companion and tells it where the process stands.

    Attributes:
      name: of the process, for the companion's messages.
    """

    def __init__(self, seconds: int):
        """`seconds` is the longest that the process may stay at one place."""
        self.name = f"process {os.getpid()}"
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(seconds)]
        self._pipe = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0).stdin
        # A companion that is not there, or does not read, must not hold the process up.
        os.set_blocking(self._pipe.fileno(), False)

    def at(self, place: str) -> None:
        """The process is at `place` from now on, one line of text; `END` is no place to die at."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            self._pipe.write(f"{self.name}\t{place}\n".encode())

    def dismiss(self) -> None:
        """Ends the companion."""
        self.at(END)
        self._pipe.close()


def watch(process: int, seconds: int) -> None:
    """The companion's side: reads places on stdin until the process, its parent, is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they come to whole groups; the process answers them
    name, place = f"process {process}", "the start"
    while select.select([0], [], [], seconds)[0]:
        told = os.read(0, 1 << 16)
        if not told:
            if place != END:
                _say(f"{name} died at {place}: {AGAIN}")
            return
        name, place = told.decode().splitlines()[-1].split("\t")
    _say(
        f"{name} stood at {place} for {seconds} s: it hangs, or waits for another that died "
        f"or hangs; {AGAIN} (distributed.timeout gives it more time)"
    )
    _end(process)


def _end(process: int) -> None:
    """Aborts the process, which prints its stacks; kills it if it can't even do that."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        if os.getppid() != process:
            return
        os.kill(process, number)
        select.select([0], [], [], GRACE)  # its end closes the pipe


def _say(message: str) -> None:
    print(f"\nerror: {message}", file=sys.stderr, flush=True)  # below a progress bar


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
