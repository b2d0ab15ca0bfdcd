"""A child process that reports where a process of a run died or hangs.

When one of several processes is gone, jax ends the others from C++, or they hang in a collective;
Python gets no say in either. So a process sends its place to a child, `Watchdog.heartbeat`; the
child prints that place when the process dies, and ends the process when it stays at one place for
too long, even if it was stopped or its interpreter is locked.

The child runs this file alone with the standard library, so that it starts at once.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

GRACE = 3  # seconds that a process has after SIGABRT to print its stacks
END = "the end"
RESUME = "run the same command again to go on"


class Watchdog:
    """The process' side: starts the child and sends it the places."""

    def __init__(self, seconds: int):
        """`seconds` is the longest that the process may stay at one place."""
        self.name = f"process {os.getpid()}"  # in the child's messages
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
        self._pipe = self._process.stdin
        # A child that is gone, or does not read, must not block the process.
        os.set_blocking(self._pipe.fileno(), False)

    def heartbeat(self, place: str) -> None:
        """The process is at `place` from now on, one line; dying at `END` is no failure."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            self._pipe.write(f"{self.name}\t{place}\n".encode())

    def stop(self) -> None:
        """Ends the child."""
        self.heartbeat(END)
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)


def watch(process: int, seconds: int) -> None:
    """The child's side: reads places on stdin until the process, its parent, is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to whole groups; the process handles them
    name, place = f"process {process}", "the start"
    while select.select([0], [], [], seconds)[0]:
        received = os.read(0, 1 << 16)
        if not received:
            if place != END:
                _print(f"{name} died at {place}: {RESUME}")
            return
        name, place = received.decode().splitlines()[-1].split("\t")
    _print(
        f"{name} stood at {place} for {seconds} s: it hangs, or waits for another that died "
        f"or hangs; {RESUME} (distributed.timeout gives it more time)"
    )
    # Aborting prints its stacks; if it can't even do that, it is killed.
    for number in (signal.SIGABRT, signal.SIGKILL):
        if os.getppid() == process:
            os.kill(process, number)
            select.select([0], [], [], GRACE)  # its end closes the pipe


def _print(message: str) -> None:
    print(f"\nerror: {message}", file=sys.stderr, flush=True)  # below a progress bar


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
