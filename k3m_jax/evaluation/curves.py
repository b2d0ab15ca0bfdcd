"""The course of a run, or of several beside each other, as a figure, and as a table."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath
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
    ("accuracy", "accuracy"),
    ("AUC", "auc"),
    ("F1", "f1"),
    ("Rank@1", "rank@1"),
    ("MRR", "mrr"),
)
COLUMNS = 4
# Blue and orange of Okabe and Ito's palette, told apart by colour-blind readers too.
TRAINING, HELD_OUT, FLOOR = "#0072B2", "#D55E00", "#555555"
RUNS = (HELD_OUT, TRAINING, "#009E73", "#CC79A7", "#E69F00")

Lines = Sequence[Mapping[str, float | None]]


def draw_curves(lines: Lines, path: epath.Path) -> None:
    """Writes a PNG of one run.

    Args:
      lines: of a run's metrics in the order of their steps: `step`, and `train/…`, `valid/…`,
        `valid/floor/…` where they were measured.
      path: where to.
    """
    _draw(path, [lines], lambda panel, metric: _draw_run(panel, lines, metric))


def draw_comparison(runs: Mapping[str, Lines], path: epath.Path) -> None:
    """Writes a PNG of several runs, by name, in a colour each; `lines` as in `draw_curves`."""
    _draw(path, list(runs.values()), lambda panel, metric: _draw_runs(panel, runs, metric))


def comparison_table(runs: Mapping[str, Lines]) -> str:
    """Held-out numbers of several runs as Markdown, a line for each metric and step measured."""
    rows = [["metric", "step", *runs], ["---", "---:", *["---:"] * len(runs)]]
    for title, metric in PANELS:
        courses = [
            dict(zip(*_course(lines, f"valid/{metric}"), strict=True)) for lines in runs.values()
        ]
        for step in sorted(set().union(*courses)):
            cells = [f"{c[step]:.3f}" if step in c else "–" for c in courses]
            rows.append([f"held-out {title}", str(step), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _draw(path: epath.Path, runs: Sequence[Lines], draw: Callable[[Axes, str], None]) -> None:
    """A panel for each metric that the runs have, as long as the longest; `draw` fills one."""
    known = {key.rpartition("/")[2] for lines in runs for line in lines for key in line}
    panels = [panel for panel in PANELS if panel[1] in known] or PANELS[:1]
    last = max([line["step"] for lines in runs for line in lines], default=1)
    # Not through pyplot: this must not touch a program's choice of windows or its open figures.
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for empty in axes[len(panels) :]:
        empty.remove()
    for panel, (title, metric) in zip(axes, panels, strict=False):
        draw(panel, metric)
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        heights = [y for line in panel.get_lines() for y in line.get_ydata()]
        panel.set_xlim(0, last * 1.03)
        panel.set_ylim(0, max(heights, default=0) * 1.08 or 1)  # 1: all are 0
    handles = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False
    )
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_run(panel: Axes, lines: Lines, metric: str) -> None:
    steps, training = _course(lines, f"train/{metric}")
    panel.plot(steps, training, color=TRAINING, alpha=0.25, linewidth=1)
    panel.plot(steps, _smoothed(training), color=TRAINING, label="training (smoothed)")
    steps, held_out = _course(lines, f"valid/{metric}")
    panel.plot(steps, held_out, color=HELD_OUT, marker="o", markersize=4, label="held out")
    _, floors = _course(lines, f"valid/floor/{metric}")
    if floors:
        panel.axhline(floors[-1], color=FLOOR, linestyle="--", label="floor: most frequent answer")


def _draw_runs(panel: Axes, runs: Mapping[str, Lines], metric: str) -> None:
    for colour, (name, lines) in zip(itertools.cycle(RUNS), runs.items(), strict=False):
        steps, training = _course(lines, f"train/{metric}")
        label = f"{name}, training (smoothed)"
        panel.plot(steps, _smoothed(training), color=colour, alpha=0.5, label=label)
        steps, held_out = _course(lines, f"valid/{metric}")
        style = {"color": colour, "marker": "o", "markersize": 4, "linestyle": "--"}
        panel.plot(steps, held_out, **style, label=f"{name}, held out")


def _course(lines: Lines, key: str) -> tuple[list[float], list[float]]:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a twentieth of the run to either side, so that the curve does not lag behind."""
    reach = len(values) // 20
    return [float(np.mean(values[max(i - reach, 0) : i + reach + 1])) for i in range(len(values))]
