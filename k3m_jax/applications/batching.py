"""Requests of many clients, embedded together: one thread that always takes all that wait."""

import collections
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np


class BusyError(Exception):
    """So many items wait already that another request would only wait too long."""


class Batcher:
    """Calls `embed` for items of several requests at once; nothing waits while it is idle."""

    def __init__(self, embed: Callable[[Sequence[Any]], np.ndarray], most: int, waiting: int):
        """`most` items at a time, and no more than `waiting` in the queue."""
        self._embed, self._most, self._limit = embed, most, waiting
        self._queue: collections.deque[tuple[Sequence[Any], Future]] = collections.deque()
        self._items, self._closed = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Any]) -> "Future[np.ndarray]":
        """The future rows of some items; raises BusyError."""
        future: Future = Future()
        with self._changed:
            if self._closed or self._items + len(items) > self._limit:
                raise BusyError(f"{self._items} products wait already")
            self._items += len(items)
            self._queue.append((items, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Ends the thread when what waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            items = [item for request, _ in batch for item in request]
            try:
                rows = self._embed(items)
            except Exception as error:  # whichever request it is of, only that one shall fail
                for request, future in batch:
                    self._alone(request, future, error if len(batch) == 1 else None)
                continue
            start = 0
            for request, future in batch:
                future.set_result(rows[start : start + len(request)])
                start += len(request)

    def _alone(self, request: Sequence[Any], future: Future, error: Exception | None) -> None:
        try:
            if error:
                raise error
            future.set_result(self._embed(request))
        except Exception as own:
            future.set_exception(own)

    def _next(self) -> list[tuple[Sequence[Any], Future]]:
        """As many whole requests as there is room for, one at least; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch, count = [], 0
            while self._queue and (not batch or count + len(self._queue[0][0]) <= self._most):
                batch.append(self._queue.popleft())
                count += len(batch[-1][0])
            self._items -= count
            return batch
