"""What a run says while it goes: progress, metrics one step late, refused steps, speed."""

import sys
from collections.abc import Mapping

import jax
import tqdm
from etils import epath

from k3m_jax.parallel import distributed
from k3m_jax.settings import UserError
from k3m_jax.training.metric_writer import MetricWriter
from k3m_jax.training.state import State
from k3m_jax.training.step import Metrics
from k3m_jax.training.throughput import Stopwatch
from k3m_jax.training.trainer import Trainer

REFUSALS = 100  # in a row, after which nothing says that the run will learn again


class ProgressReporter:
    """Reads each step's metrics once the next step is dispatched, so that no device waits for it.

    Raises UserError, in all processes alike, where it reads of `REFUSALS` refused steps in a row.

    Attributes:
      stopwatch: times the steps.
    """

    def __init__(self, program: Trainer, workdir: epath.PathLike, state: State):
        """`state` is what the run starts from."""
        self._training = program.network.settings.training
        step, self._skipped = int(state.step), int(state.skipped)
        self._in_a_row = 0  # steps refused, up to the last one read
        self.stopwatch = Stopwatch(program.network.settings, list(program.mesh.devices.flat))
        # Metrics are the same in all processes; one of them writes.
        self._writer = MetricWriter(workdir, step) if distributed.is_lead_process() else None
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
        """The step that makes `step` steps done was handed to the devices."""
        self._flush()
        self._pending = step, metrics

    def held_out(self, step: int, values: Mapping[str, float | None]) -> float | None:
        """Writes held-out numbers; returns their `loss`, if any."""
        loss = values.get("loss")
        if self._writer:
            self._writer.metrics(step, "valid", values)
            self._bar.write(f"step {step}: held-out loss {loss}", file=sys.stderr)
        return loss

    def pause(self) -> None:
        """Waits until every dispatched step is done and written; what comes now is no step."""
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
        step, metrics = self._pending
        self._pending = None
        distributed.heartbeat(f"step {step}")
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.stopwatch.lap()
        refused = values["skipped"] > self._skipped
        self._skipped = int(values["skipped"])
        self._in_a_row = self._in_a_row + 1 if refused else 0
        if self._writer:
            self._write(step, values, refused)
        if self._in_a_row == REFUSALS:
            raise UserError(
                f"{REFUSALS} steps in a row, up to step {step}, were refused, since their loss or "
                "its gradient is not finite: debug.nans=True shows where the first NaN is made"
            )

    def _write(self, step: int, values: dict[str, float], refused: bool) -> None:
        self._bar.update()
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        if refused:
            self._bar.write(
                f"step {step}: loss {values['loss']} or its gradient {values['gradient_norm']} is "
                f"not finite; refused, {self._skipped} so far",
                file=sys.stderr,
            )
        if step == 1 or step % self._training.log_every == 0 or step == self._training.steps:
            self._writer.metrics(step, "train", values)
            if timing := self.stopwatch.report():
                self._writer.timing(step, timing)
