"""Figures of a grid: metrics against the share of spoilt items, and what parts of K3M are worth.

Text and K3M's lines are drawn in `INK`, which a page may replace by its own colour of text.
"""

import itertools
import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from k3m_jax.experiments.grid_report import naming
from k3m_jax.experiments.grid_report.document import Figure, Table
from k3m_jax.experiments.grid_report.scores import Place, Score, Scores

INK, GREY = "#15191e", "#7a828c"
# Okabe and Ito's palette, told apart by colour-blind readers too: a colour for an architecture, a
# line and filled marks where it reads the triples, dashes and hollow marks where it doesn't.
COLOURS = {"bert": "#E69F00", "vilbert": "#0072B2", "vlbert": "#009E73", "lxmert": "#D55E00"}
SPARE = ("#CC79A7", "#56B4E9", "#8C6D31")
MARKS = {"bert": "v", "vilbert": "s", "vlbert": "D", "lxmert": "^"}
COLUMNS = 3
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "grid.color": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: it can be found, and takes a page's colour
    "svg.hashsalt": "k3m_jax",  # the same numbers, the same file
}


def draw_course(
    scores: Scores, data: str, task: str, metric: str, folder: pathlib.Path
) -> Figure | None:
    """A metric against the rate, a panel for each setting; None where no rate was varied."""
    places = [
        place
        for place in scores.places
        if (place.data, place.task, place.training) == (data, task, "")
        and not naming.is_ablation(place.model)
    ]
    rates: dict[str, set[int]] = {}
    for place in places:
        setting, rate = naming.split_corruption(place.corruption)
        rates.setdefault(setting, set()).add(rate)
    panels = [setting for setting in naming.SETTINGS if setting in rates]
    if not panels:
        return None
    models = naming.models_in_order(p.model for p in places if not naming.is_floor(p.model))
    floors = naming.models_in_order(p.model for p in places if naming.is_floor(p.model))
    styles = _styles(models)
    name, shown = naming.metric_called(metric), naming.slug(data, task, metric)
    with matplotlib.rc_context(STYLE):
        rows = -(-len(panels) // COLUMNS)
        canvas = Canvas(figsize=(10.5, 2.6 * rows + 0.9), layout="constrained")
        axes = canvas.subplots(rows, COLUMNS, squeeze=False, sharey=True).ravel()
        for empty in axes[len(panels) :]:
            empty.remove()
        for axis, setting in zip(axes, panels, strict=False):
            at = [(0, ""), *((rate, f"{setting}{rate}") for rate in sorted(rates[setting]))]

            def course(model: str, at: Sequence[tuple[int, str]] = at) -> dict[int, Score]:
                found = {r: scores.score(Place(data, task, model, "", c), metric) for r, c in at}
                return {rate: score for rate, score in found.items() if score}

            for model in reversed(models):  # K3M on top
                _draw_line(axis, course(model), naming.called(model), styles[model])
            best = [max((course(f)[r].mean for f in floors if r in course(f)), default=None)
                    for r, _ in at]  # fmt: skip
            known = [(r, 100 * y) for (r, _), y in zip(at, best, strict=True) if y is not None]
            if known:
                style = {"color": GREY, "linestyle": ":", "linewidth": 1.3, "zorder": 1}
                axis.plot(*zip(*known, strict=True), **style, label="best floor")
            _dress(axis, setting, sorted({rate for rate, _ in at}))
        # Not the canvas' own label, which the legend would cover.
        axes[(rows - 1) * COLUMNS].set_xlabel(f"{task}: items that are spoilt (%)", fontsize=9)
        canvas.supylabel(f"{name} (%)", fontsize=10)
        _legend(canvas, [*map(naming.called, models), "best floor"])
        path = _write(canvas, folder / shown)
    several = any(len(scores.seeds(place)) > 1 for place in places)
    bands = " Bands are one standard deviation over seeds." if several else ""
    note = f"A colour is an architecture; lines with +PKG are solid, those without dashed.{bands}"
    return Figure(path, f"{task.capitalize()}, {name}, against the share of spoilt items", note)


def draw_ablations(differences: Table, folder: pathlib.Path) -> Figure:
    """Of the table of what each ablation costs: a panel for each column."""
    rows = list(differences.rows)[::-1]
    with matplotlib.rc_context(STYLE):
        columns = len(differences.columns)
        width = min(columns, COLUMNS)
        height = -(-columns // width)
        size = (10.5, height * (0.3 * len(rows) + 0.75))
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots(height, width, squeeze=False, sharey=True, sharex=True).ravel()
        for empty in axes[columns:]:
            empty.remove()
        for i, (axis, column) in enumerate(zip(axes, differences.columns, strict=False)):
            axis.axvline(0, color=GREY, linewidth=1)
            for y, row in enumerate(rows):
                if isinstance(score := row.cells[i], Score):
                    bar = {"xerr": 100 * (score.spread or 0), "capsize": 2.5}
                    axis.errorbar(100 * score.mean, y, **bar, color=INK, marker="o", markersize=5)
            axis.set_title(column.name, fontsize=9, loc="left")
            axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
            axis.set_ylim(-0.6, len(rows) - 0.4)
            axis.grid(axis="x", alpha=0.2)
            axis.tick_params(axis="x", labelsize=8)
            axis.spines[["top", "right", "left"]].set_visible(False)
        canvas.supxlabel("points more than K3M as it is", fontsize=10)
        path = _write(canvas, folder / differences.key)
    return Figure(path, "What a part of K3M is worth", "Left of 0, it is worth having.")


def _styles(models: Sequence[str]) -> dict[str, dict]:
    spare = itertools.cycle(SPARE)
    colours: dict[str, str] = dict(COLOURS)
    styles = {}
    for model in models:
        if model == naming.OURS:
            styles[model] = {"color": INK, "linewidth": 2.4, "marker": "o", "zorder": 4}
            continue
        kind = model.removesuffix("_pkg")
        colour = colours.setdefault(kind, next(spare) if kind not in colours else "")
        style = {"color": colour, "linewidth": 1.4, "marker": MARKS.get(kind, "P"), "zorder": 3}
        if not naming.reads_knowledge(model):
            style |= {"linestyle": (0, (4, 2)), "markerfacecolor": "none"}
        styles[model] = style
    return styles


def _draw_line(axis: Axes, course: dict[int, Score], label: str, style: dict) -> None:
    rates, means = list(course), [100 * score.mean for score in course.values()]
    spreads = [100 * (score.spread or 0) for score in course.values()]
    axis.plot(rates, means, **style, markersize=4, label=label)
    if any(spreads):
        low, high = (
            [y + sign * s for y, s in zip(means, spreads, strict=True)] for sign in (-1, 1)
        )
        axis.fill_between(rates, low, high, color=style["color"], alpha=0.13, linewidth=0)


def _dress(axis: Axes, title: str, rates: Sequence[int]) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xticks(rates)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(canvas: Canvas, order: Sequence[str]) -> None:
    """One for all panels."""
    handles = {
        label: handle
        for axis in canvas.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in order if label in handles]
    place = {"loc": "outside lower center", "ncols": min(len(labels), 5), "frameon": False}
    canvas.legend([handles[x] for x in labels], labels, **place, fontsize=9)


def _write(canvas: Canvas, path: pathlib.Path) -> pathlib.Path:
    """As PNG and SVG; returns the path without a suffix' meaning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    canvas.savefig(f"{path}.png", dpi=140)
    canvas.savefig(f"{path}.svg", metadata=nothing, transparent=True)
    return path
