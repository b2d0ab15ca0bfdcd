"""What a run reports: JSON lines for programs, TensorBoard events and a bar for people."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import tqdm
from etils import epath

from k3m_jax.data.store.remote import LocalFolder, sync
from k3m_jax.parallel import distributed
from k3m_jax.parallel.accelerators import peak_flops
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.events import EventWriter
from k3m_jax.training.flops import training_flops
from k3m_jax.training.step import Metrics, State
from k3m_jax.training.trainer import Trainer

METRICS = "metrics.jsonl"  # depends on settings and data alone: a repeat writes the same lines
TIMING = "timing.jsonl"  # how fast it went
MAX_REFUSALS = 100  # in a row, after which the run is unlikely to recover


class Stopwatch:
    """Times steps and the waits for data between two reports."""

    def __init__(self, settings: Settings, devices: list[jax.Device]):
        self._items = settings.training.batch
        peak, flops = peak_flops(devices[0].device_kind), training_flops(settings) * self._items
        self._ideal = flops / (peak * len(devices)) if peak else None  # seconds of a step
        self._last: float | None = None
        self._waited = 0.0  # since the last step
        self._timed: list[tuple[float, float]] = []  # seconds of each step, and waited of them

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the call that waits for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def lap(self) -> None:
        """A step is done; the first one, and the first after a pause, only starts the clock."""
        now = time.perf_counter()
        if self._last is not None:
            self._timed.append((now - self._last, self._waited))
        self._last, self._waited = now, 0.0

    def pause(self) -> None:
        """Something other than a step follows."""
        self._last = None

    def report(self) -> dict[str, float | None]:
        """Rates since the last report; seconds, items and shares. Empty if no step was timed."""
        if not self._timed:
            return {}
        seconds, waited = np.transpose(self._timed)
        self._timed = []
        return {
            "items_per_second": float(self._items / seconds.mean()),
            "step_seconds_p50": float(np.percentile(seconds, 50)),
            "step_seconds_p95": float(np.percentile(seconds, 95)),
            "data_wait_share": float(min(1.0, waited.sum() / seconds.sum())),
            # The share of the devices' peak FLOP/s; None where that is unknown.
            "mfu": self._ideal and float(self._ideal / seconds.mean()),
        }


class MetricWriter:
    """Appends to `metrics.jsonl`, `timing.jsonl` and `tensorboard/` of a run's folder.

    Lines have `step`, how many are done; what lies past the one resumed from is dropped first.
    """

    def __init__(self, workdir: epath.PathLike, step: int, measured: bool = True):
        """`measured` says whether the step resumed from has its held-out numbers already."""
        self._folder, self._files = LocalFolder(workdir), {}
        for name in (METRICS, TIMING):
            kept = [x for x in read_metrics(epath.Path(workdir) / name) if x["step"] <= step]
            if not measured:
                kept = [x for x in kept if x["step"] < step or "valid/loss" not in x]
            # Replaced atomically: a crash here must not lose what stays.
            fresh = (path := self._folder.path / name).with_suffix(".fresh")
            fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            sync(fresh)
            fresh.replace(path)
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)
        self._events = EventWriter(self._folder.path / "tensorboard", step)

    def write(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Writes numbers as `group/key`, those of the group `timing` to its own file."""
        line: dict[str, float | None] = {"step": step}
        for key, value in values.items():
            finite = value is not None and math.isfinite(value)
            line[f"{group}/{key}"] = value if finite else None  # JSON has no NaN or infinity
            if finite:
                self._events.add_scalar(f"{group}/{key}", value, step)
        self._files[TIMING if group == "timing" else METRICS].write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Brings a remote folder up to date; a local one always is."""
        self._events.flush()
        self._folder.push()

    def close(self) -> None:
        """Writes what is still buffered; after an error of one file, that of the others too."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._folder.close)
            stack.callback(self._events.close)
            for file in self._files.values():
                stack.callback(file.close)


def read_metrics(path: epath.Path) -> list[dict[str, float | None]]:
    """The lines of a metrics file in their order; a line cut short by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


class ProgressReporter:
    """Reads each step's metrics once the next step is dispatched, so that no device waits for it.

    Raises UserError, in all processes alike, after `MAX_REFUSALS` refused steps in a row.
    """

    def __init__(
        self, trainer: Trainer, workdir: epath.PathLike, state: State, measured: bool = True
    ):
        """`measured` is whether the held-out numbers of `state` are written already."""
        self._training = trainer.network.settings.training
        step, self._skipped = int(state.step), int(state.skipped)
        self._refusals = 0  # in a row, up to the last step read
        self.stopwatch = Stopwatch(trainer.network.settings, list(trainer.mesh.devices.flat))
        # Metrics are the same in all processes; one of them writes.
        leads = distributed.is_lead_process()
        self._writer = MetricWriter(workdir, step, measured) if leads else None
        self._bar = tqdm.tqdm(
            total=self._training.steps,
            initial=step,
            unit="step",
            disable=self._writer is None,
            # A log file wants few lines, a terminal a lively bar.
            mininterval=0.5 if sys.stderr.isatty() else 20,
        )
        self._pending: tuple[int, Metrics] | None = None

    def dispatched(self, step: int, metrics: Metrics) -> None:
        """The step after which `step` steps are done was handed to the devices."""
        self._flush()
        self._pending = step, metrics

    def held_out(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes held-out numbers."""
        if self._writer:
            self._writer.write(step, "valid", values)
            self._bar.write(f"step {step}: held-out loss {values.get('loss')}", file=sys.stderr)

    def pause(self) -> None:
        """Waits until every dispatched step is done and written; what follows is not timed."""
        self._flush()
        if self._writer:
            self._writer.flush()
        self.stopwatch.pause()

    def close(self) -> None:
        """Writes what is pending and closes the files."""
        self._flush()
        self._bar.close()
        if self._writer:
            self._writer.close()

    def _flush(self) -> None:
        """Waits for the last dispatched step and writes its metrics."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        distributed.heartbeat(f"step {step}")
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.stopwatch.lap()
        refused, self._skipped = values["skipped"] > self._skipped, int(values["skipped"])
        self._refusals = self._refusals + 1 if refused else 0
        if self._writer:
            self._bar.update()
            self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            if refused:
                found = f"loss {values['loss']} or its gradient {values['gradient_norm']}"
                text = f"step {step}: {found} is not finite; refused, {self._skipped} so far"
                self._bar.write(text, file=sys.stderr)
            if step == 1 or step % self._training.log_every == 0 or step == self._training.steps:
                self._writer.write(step, "train", values)
                if timing := self.stopwatch.report():
                    self._writer.write(step, "timing", timing)
        if self._refusals == MAX_REFUSALS:
            found = (
                f"{MAX_REFUSALS} steps in a row, up to step {step}, were refused, not being finite"
            )
            raise UserError(f"{found}: debug.nans=True shows where the first NaN is made")
