"""TensorBoard events, written by the caller itself.

tensorboardX hands them to a thread; when that dies of a full disk, whoever writes more waits for it
without end. Here the caller gets the error.
"""

import os
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

PERIOD = 10.0  # seconds between two flushes


class EventWriter:
    """Scalars of a run, for TensorBoard."""

    def __init__(self, folder: pathlib.Path, step: int):
        """TensorBoard itself hides what earlier files have from the step after `step` on."""
        folder.mkdir(parents=True, exist_ok=True)
        # Else two files of one second would be one.
        self._writer = EventsWriter(os.path.join(folder, "events"), f".{step}")
        self._flushed = time.monotonic()
        if step:
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number; raises OSError where the disk does not take it."""
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        if time.monotonic() - self._flushed > PERIOD:
            self.flush()

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes, and closes the file."""
        self._writer.close()

    def _write(self, **event) -> None:
        self._writer.write_event(Event(wall_time=time.time(), **event))
