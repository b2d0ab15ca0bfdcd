"""The metrics of a run, or of several for comparison, over steps: as a figure, and as a table."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from k3m_jax.evaluation.evaluator import BASELINE
from k3m_jax.evaluation.report import markdown_table
from k3m_jax.objectives import REGISTRY

COLUMNS = 4
# Okabe and Ito's palette, which colour-blind readers can distinguish.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")

# A run's metrics by step: `step`, and `train/…`, `valid/…`, `valid/floor/…` where measured.
Lines = Sequence[Mapping[str, float | None]]


def draw_curves(runs: Mapping[str, Lines], path: epath.Path) -> None:
    """Writes a PNG, a panel for each metric; one run has baselines and unsmoothed curves too."""
    panels = _panels(runs) or {"loss": "total loss"}
    last = max([line["step"] for lines in runs.values() for line in lines], default=1)
    # Not through pyplot: this must not touch a program's choice of windows or its open figures.
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for empty in axes[len(panels) :]:
        empty.remove()
    for panel, (metric, title) in zip(axes, panels.items(), strict=False):
        for colour, (name, lines) in zip(itertools.cycle(COLOURS), runs.items(), strict=False):
            _draw(panel, lines, metric, colour, f"{name}, " if len(runs) > 1 else "")
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        heights = [y for line in panel.get_lines() for y in line.get_ydata()]
        panel.set_xlim(0, last * 1.03)
        panel.set_ylim(0, max(heights, default=0) * 1.08 or 1)  # 1: all are 0
    legend = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    place = {"loc": "outside lower center", "ncols": len(legend), "frameon": False}
    figure.legend(legend.values(), legend, **place)
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)


def comparison_table(runs: Mapping[str, Lines]) -> str:
    """Held-out numbers of several runs as Markdown, a line for each metric and step measured."""
    cells = [("metric", "step", *runs)]
    for metric, title in _panels(runs).items():
        curves = [dict(_points(lines, f"valid/{metric}")) for lines in runs.values()]
        for step in sorted(set().union(*curves)):
            numbers = (f"{c[step]:.3f}" if step in c else "–" for c in curves)
            cells.append((f"held-out {title}", str(step), *numbers))
    return "\n".join(markdown_table(cells)) + "\n"


def _panels(runs: Mapping[str, Lines]) -> dict[str, str]:
    """Titles by metric: the objectives' labels first, then other held-out metrics."""
    titles = {"loss": "total loss"}
    for objective in REGISTRY.values():
        titles |= {name: reported.label for name, reported in objective.reported.items()}
    keys = {key: None for lines in runs.values() for line in lines for key in line}
    names = {key.rpartition("/")[2] for key in keys}
    found = {name: title for name, title in titles.items() if name in names}
    held_out = (key.removeprefix("valid/") for key in keys if key.startswith("valid/"))
    return found | {name: name for name in held_out if "/" not in name and name not in found}


def _draw(panel: Axes, lines: Lines, metric: str, colour: str, name: str) -> None:
    """The curves of one run; of several, training and held-out products share its colour."""
    training = _points(lines, f"train/{metric}")
    steps, values = [step for step, _ in training], [value for _, value in training]
    reach = len(values) // 20  # to either side, so that the curve does not lag behind
    smooth = [np.mean(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values))]
    style = {"color": colour, "alpha": 0.5} if name else {"color": COLOURS[1]}
    panel.plot(steps, smooth, label=f"{name}training (smoothed)", **style)
    held_out = {"color": colour, "marker": "o", "markersize": 4, "linestyle": "--" if name else "-"}
    points = zip(*_points(lines, f"valid/{metric}"), strict=True)
    panel.plot(*points, label=f"{name}held out", **held_out)
    if not name:
        panel.plot(steps, values, color=COLOURS[1], alpha=0.25, linewidth=1)
        for _, constant in _points(lines, f"valid/{BASELINE}/{metric}")[-1:]:
            label = "floor: most frequent answer"
            panel.axhline(constant, color="#555555", linestyle="--", label=label)


def _points(lines: Lines, key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]
