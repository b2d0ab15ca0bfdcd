"""The course of a run as a figure: training, held-out products and the floor."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Panels by row: a title, and the metric's name in the lines of a run.
PANELS = (
    ("total loss", "loss"),
    ("MLM loss (nats)", "mlm_loss"),
    ("MOM loss", "mom_loss"),
    ("LPM loss", "lpm_loss"),
    ("MLM accuracy", "mlm_accuracy"),
    ("MOM top-1", "mom_top1"),
    ("link Hits@1", "link_hits_at_1"),
    ("link MRR", "link_mrr"),
)
COLUMNS = 4
# Blue and orange of Okabe and Ito's palette, told apart by colour-blind readers too.
TRAINING, HELD_OUT, FLOOR = "#0072B2", "#D55E00", "#555555"


def draw_curves(lines: Sequence[Mapping[str, float | None]], path: pathlib.Path) -> None:
    """Writes a PNG.

    Args:
      lines: of a run's metrics in the order of their steps: `step`, and `train/…`, `valid/…`,
        `valid/floor/…` where they were measured.
      path: where to.
    """
    # Not through pyplot: this must not touch a program's choice of windows or its open figures.
    rows = -(-len(PANELS) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.7 * rows), layout="constrained")
    for panel, (title, metric) in zip(figure.subplots(rows, COLUMNS).flat, PANELS, strict=True):
        _draw_panel(panel, lines, metric)
        panel.set_title(title, fontsize=10, loc="left")
    handles = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False
    )
    figure.savefig(path, dpi=120)


def _draw_panel(panel: Axes, lines: Sequence[Mapping[str, float | None]], metric: str) -> None:
    steps, training = _course(lines, f"train/{metric}")
    panel.plot(steps, training, color=TRAINING, alpha=0.25, linewidth=1)
    panel.plot(steps, _smoothed(training), color=TRAINING, label="training (smoothed)")
    steps, held_out = _course(lines, f"valid/{metric}")
    panel.plot(steps, held_out, color=HELD_OUT, marker="o", markersize=4, label="held out")
    _, floors = _course(lines, f"valid/floor/{metric}")
    if floors:
        panel.axhline(floors[-1], color=FLOOR, linestyle="--", label="floor: most frequent answer")
    panel.set_xlim(0, max([line["step"] for line in lines], default=1) * 1.03)
    panel.set_ylim(0, max([*training, *held_out, *floors], default=0) * 1.08 or 1)  # 1: all are 0
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _course(
    lines: Sequence[Mapping[str, float | None]], key: str
) -> tuple[list[float], list[float]]:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a twentieth of the run to either side, so that the curve does not lag behind."""
    reach = len(values) // 20
    return [float(np.mean(values[max(i - reach, 0) : i + reach + 1])) for i in range(len(values))]
