"""What a run writes down: JSON lines for programs, TensorBoard events for people."""

import json
import math
import pathlib
from collections.abc import Mapping

import tensorboardX
from etils import epath

from k3m_jax.data.store.remote import LocalFolder

METRICS = "metrics.jsonl"  # a function of settings and data alone: an exact repeat writes it again
TIMING = "timing.jsonl"


class MetricWriter:
    """Appends to `metrics.jsonl`, `timing.jsonl` and `tensorboard/` of a run's folder.

    Every line has `step`, the number of steps done. A resumed run first drops the lines past the
    step that it resumes from, so that the files read as if it had never stopped.
    """

    def __init__(self, workdir: epath.PathLike, step: int):
        """`step`: how many steps the state has seen."""
        workdir = epath.Path(workdir)
        self._folder, self._files = LocalFolder(workdir), {}
        for name in (METRICS, TIMING):
            path = self._folder.path / name
            _keep_until(step, workdir / name, path)
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)
        # TensorBoard itself hides the events from `purge_step` on.
        self._events = tensorboardX.SummaryWriter(
            str(self._folder.path / "tensorboard"),
            purge_step=step + 1 if step else None,
            filename_suffix=f".{step}",  # else two of one second would be one
        )

    def metrics(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Writes numbers that a repeat of the run would find again; keys become `group/key`."""
        self._write(METRICS, step, {f"{group}/{key}": value for key, value in values.items()})

    def timing(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes how fast it went."""
        self._write(TIMING, step, {f"timing/{key}": value for key, value in values.items()})

    def flush(self) -> None:
        """Brings a remote folder up to date; the lines of a local one are there anyway.

        Events, which nothing depends on, go along as far as TensorBoard's thread has written them.
        """
        self._events.flush()
        self._folder.push()

    def close(self) -> None:
        """Writes what is still held back."""
        for file in self._files.values():
            file.close()
        self._events.close()
        self._folder.close()

    def _write(self, name: str, step: int, values: Mapping[str, float | None]) -> None:
        # JSON has no NaN or infinity: a number that is not finite is null.
        finite = {key: value if _finite(value) else None for key, value in values.items()}
        self._files[name].write(json.dumps({"step": step, **finite}) + "\n")
        for key, value in finite.items():
            if value is not None:
                self._events.add_scalar(key, value, step)


def read_metrics(path: epath.Path) -> list[dict[str, float | None]]:
    """The lines of a metrics file in their order; a line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _keep_until(step: int, path: epath.Path, local: pathlib.Path) -> None:
    """Leaves the lines of a metrics file up to `step` in its local place, if there is one."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    if path.exists():
        # Replaced at once: a crash here must not lose the lines of the steps that stand.
        fresh = local.with_suffix(".fresh")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(local)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
