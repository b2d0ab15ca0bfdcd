"""How fast a run goes, and what share of the devices' peak its arithmetic is (MFU)."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from k3m_jax.data.input.pipeline import Inputs, train_batches
from k3m_jax.parallel.accelerators import find_chip
from k3m_jax.settings import Settings
from k3m_jax.training.flops import training_flops


class Stopwatch:
    """Times steps and the waits for data between two reports."""

    def __init__(self, settings: Settings, devices: list[jax.Device]):
        self._items = settings.training.batch
        chip, flops = find_chip(devices[0].device_kind), training_flops(settings) * self._items
        self._floor = flops / (chip.flops * len(devices)) if chip else 0
        self._last: float | None = None
        self._seconds: list[float] = []
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the call that waits for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def lap(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds.append(now - self._last)
        else:
            self._waited = 0.0  # what was waited before the first lap belongs to no step
        self._last = now

    def pause(self) -> None:
        """Something else than a step comes now: the next lap only starts the clock."""
        self._last = None

    def report(self) -> dict[str, float | None]:
        """Rates since the last report; seconds, items and shares. Empty if no step was timed."""
        seconds, waited = np.array(self._seconds), self._waited
        self._seconds, self._waited = [], 0.0
        if not len(seconds):
            return {}
        return {
            "items_per_second": float(self._items * len(seconds) / seconds.sum()),
            "step_seconds_p50": float(np.percentile(seconds, 50)),
            "step_seconds_p95": float(np.percentile(seconds, 95)),
            "data_wait_share": float(min(1.0, waited / seconds.sum())),
            "mfu": float(self._floor / np.mean(seconds)) if self._floor else None,
        }


class InputCost(NamedTuple):
    """What batches cost the host that makes them."""

    items: int
    cpu_seconds: float  # of all threads
    bytes_per_item: float  # of a batch, as it goes to the devices

    @property
    def rate(self) -> float:
        """Items per second and core."""
        return self.items / self.cpu_seconds


def measure_input(settings: Settings, inputs: Inputs, steps: int) -> InputCost:
    """Makes the batches of a run's first `steps` in this process.

    Args:
      settings: resolved by `inputs`.
      inputs: the data.
      steps: as many batches of `settings.training.batch` items.
    """
    here = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, workers=0),
        training=dataclasses.replace(settings.training, steps=steps),
    )
    start, size = time.process_time(), 0
    with contextlib.closing(train_batches(here, *inputs)) as batches:
        for batch in batches:
            size += sum(array.nbytes for array in batch.values())
    items = steps * settings.training.batch
    return InputCost(items, time.process_time() - start, size / items)
