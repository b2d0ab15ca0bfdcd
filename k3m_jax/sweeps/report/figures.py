"""Figures of a grid: metrics against the share of corrupt items, and what parts of K3M are worth.

Text and K3M's lines are drawn in `INK`, which a page may replace by its own colour of text.
"""

import itertools
import pathlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from k3m_jax.sweeps.grid import slug
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.report.comparisons import MetricView
from k3m_jax.sweeps.report.document import Figure, Table
from k3m_jax.sweeps.report.scores import Score

INK, GREY = "#15191e", "#7a828c"
# Okabe and Ito's palette, told apart by colour-blind readers too: a colour for an architecture, a
# line and filled marks where it reads the triples, dashes and hollow marks where it doesn't.
COLOURS = {"bert": "#E69F00", "vilbert": "#0072B2", "vlbert": "#009E73", "lxmert": "#D55E00"}
SPARE = ("#CC79A7", "#56B4E9", "#8C6D31")
MARKS = {"bert": "v", "vilbert": "s", "vlbert": "D", "lxmert": "^"}
# Of a line of two ends: it joins what belongs together, and claims nothing of what lies between.
ENDS = {"linestyle": (0, (1, 3)), "linewidth": 0.8, "elinewidth": 1.2, "capsize": 0}
ASIDE = 0.022  # of the highest rate: between one model's ends and those of the next
WIDTH, COLUMNS = 8, 3  # inches of a figure, whose letters are to be read in a column of text too
FLOOR = "best floor"
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "grid.color": GREY,
    "axes.labelsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: it can be found, and takes a page's colour
    "svg.hashsalt": "k3m_jax",  # the same numbers, the same file
}


def draw_course(measured: MetricView, folder: pathlib.Path) -> Figure | None:
    """A metric against the rate, a panel for each setting; None where no rate was varied."""
    places = measured.places(measured.compared)
    rates = _rates(place.corruption for place in places)
    if not rates:
        return None
    everyone = naming.models_in_order(place.model for place in places)
    models = [model for model in everyone if not naming.is_floor(model)]
    floors = [model for model in everyone if naming.is_floor(model)]
    styles = _styles(models)
    rows = -(-len(rates) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 2.1 * rows + 1.2), layout="constrained")
        axes = _panels(canvas, rows, COLUMNS, len(rates), sharey=True)
        drawn = []
        for axis, (setting, varied) in zip(axes, rates.items(), strict=True):
            for i, model in reversed([*enumerate(models)]):  # K3M on top
                line = _line(measured, model, setting, varied)
                aside = ASIDE * varied[-1] * (i - (len(models) - 1) / 2)
                _draw_line(axis, line, naming.called(model), styles[model], aside)
                drawn.append(line)
            _draw_floor(axis, [_line(measured, floor, setting, varied) for floor in floors])
            _dress(axis, setting)
            axis.set_xticks(varied)
        for axis in axes[-COLUMNS:]:  # not the canvas' own label, which the legend would cover
            axis.set_xlabel("items that are corrupt (%)")
        canvas.supylabel(f"{measured.task}: {measured.name} (%)", fontsize=10)
        order = [*map(naming.called, models)]
        order.insert(1, FLOOR)  # in K3M's column, so that a baseline stands above itself with +PKG
        _legend(canvas, order, _caption(drawn, any(floors)))
        path = folder / slug(measured.data, measured.task, measured.metric)
        _write(canvas, path)
    title = f"{measured.task.capitalize()}, {measured.name}, against the share of corrupt items"
    return Figure(path, title)


def draw_ablations(differences: Table, folder: pathlib.Path) -> Figure:
    """Of the table of what each ablation costs: a panel for each column."""
    rows, columns = differences.rows[::-1], differences.columns
    width = min(len(columns), COLUMNS)
    height = -(-len(columns) // width)
    with matplotlib.rc_context(STYLE):
        size = (WIDTH, height * (0.25 * len(rows) + 0.6))
        canvas = Canvas(figsize=size, layout="constrained")
        axes = _panels(canvas, height, width, len(columns), sharey=True, sharex=True)
        for i, (axis, column) in enumerate(zip(axes, columns, strict=True)):
            axis.axvline(0, color=GREY, linewidth=1)
            for y, row in enumerate(rows):
                if isinstance(score := row.cells[i], Score):
                    bar = {"xerr": 100 * (score.spread or 0), "capsize": 2.5}
                    axis.errorbar(100 * score.mean, y, **bar, color=INK, marker="o", markersize=5)
            _dress(axis, column.name)
            axis.set_yticks(range(len(rows)), [row.name for row in rows])
            axis.set_ylim(-0.6, len(rows) - 0.4)
        canvas.supxlabel("points more than K3M as it is", fontsize=10)
        path = folder / differences.key
        _write(canvas, path)
    several = any(isinstance(cell, Score) and cell.spread for row in rows for cell in row.cells)
    bars = "Bars are one standard deviation over seeds." if several else "One seed: no spread."
    note = f"Left of 0, K3M as it is does better. {bars}"
    return Figure(path, "What the parts of K3M are worth", note)


def _rates(corruptions: Iterable[str]) -> dict[str, list[int]]:
    """Of each setting, in the protocol's order, 0 and those that there are."""
    found = set(map(naming.split_corruption, corruptions))
    rates = {s: sorted(rate for setting, rate in found if setting == s) for s in naming.SETTINGS}
    return {setting: [0, *varied] for setting, varied in rates.items() if varied}


def _line(measured: MetricView, model: str, setting: str, rates: Sequence[int]) -> dict[int, Score]:
    """The scores of a model by rate, as far as there are any."""
    scores = {rate: measured.score(model, f"{setting}{rate}" if rate else "") for rate in rates}
    return {rate: score for rate, score in scores.items() if score}


def _panels(canvas: Canvas, rows: int, columns: int, count: int, **shared: bool) -> list[Axes]:
    """So many of a grid; the rest is left empty."""
    axes = canvas.subplots(rows, columns, squeeze=False, **shared).ravel()
    for empty in axes[count:]:
        empty.remove()
    return list(axes[:count])


def _styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    spare = itertools.cycle(SPARE)
    colours, styles = dict(COLOURS), {}
    for model in models:
        if model == naming.OURS:
            styles[model] = {"color": INK, "linewidth": 2.4, "marker": "o", "zorder": 4}
            continue
        kind = model.removesuffix("_pkg")
        if kind not in colours:
            colours[kind] = next(spare)
        style = {
            "color": colours[kind],
            "linewidth": 1.4,
            "marker": MARKS.get(kind, "P"),
            "zorder": 3,
        }
        if naming.is_baseline(model) and not naming.reads_knowledge(model):
            style |= {"linestyle": (0, (4, 2)), "markerfacecolor": "none"}
        styles[model] = style
    return styles


def _is_course(line: Mapping[int, Score]) -> bool:
    """Whether anything was measured between its ends."""
    return len(line) > 2


def _draw_line(
    axis: Axes, line: Mapping[int, Score], label: str, style: dict[str, Any], aside: float = 0
) -> None:
    means = np.array([100 * score.mean for score in line.values()])
    spreads = np.array([100 * (score.spread or 0) for score in line.values()])
    style = {"markersize": 4, "label": label, **style}
    if not _is_course(line):
        bars = spreads if spreads.any() else None
        axis.errorbar([rate + aside for rate in line], means, bars, **style | ENDS)
        return
    axis.plot(list(line), means, **style)
    if spreads.any():
        band = {"color": style["color"], "alpha": 0.13, "linewidth": 0}
        axis.fill_between(list(line), means - spreads, means + spreads, **band)


def _draw_floor(axis: Axes, floors: Sequence[Mapping[int, Score]]) -> None:
    """The best of them at each rate."""
    rates = sorted(set().union(*floors))
    if rates:
        means = [max(line[rate].mean for line in floors if rate in line) for rate in rates]
        best = {rate: Score(mean) for rate, mean in zip(rates, means, strict=True)}
        style = {"color": GREY, "linestyle": ":", "linewidth": 1.3, "zorder": 1}
        mark = {} if _is_course(best) else {"marker": "_", "markersize": 12}
        _draw_line(axis, best, FLOOR, style | mark)


def _dress(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def _caption(lines: Sequence[Mapping[int, Score]], floors: bool) -> str:
    """How to read the models' lines: a figure is shown without its page, too."""
    courses = any(_is_course(line) for line in lines)
    ends = any(line and not _is_course(line) for line in lines)
    told = [f"Filled: reads the triples; hollow{', dashed' * courses}: does not."]
    if any(score.spread for line in lines for score in line.values()):
        marks = " and ".join(["Bands"] * courses + ["bars"] * ends).capitalize()
        told.append(f"{marks}: one standard deviation over seeds.")
    if floors:
        told.append("Best floor: at each rate the best that needs no model.")
    if ends:
        told.append("Thin dots only join two rates, between which nothing was measured.")
    return textwrap.fill(" ".join(told), 115)


def _legend(canvas: Canvas, order: Sequence[str], caption: str) -> None:
    """One for all panels."""
    handles = {
        label: handle
        for axis in canvas.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in order if label in handles]
    place = {"loc": "outside lower center", "ncols": min(len(labels), 5), "frameon": False}
    text = {"fontsize": 9, "title": caption, "title_fontsize": 8, "handlelength": 3}
    canvas.legend([handles[x] for x in labels], labels, **place, **text)


def _write(canvas: Canvas, path: pathlib.Path) -> None:
    """As PNG and SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    canvas.savefig(f"{path}.png", dpi=180)
    canvas.savefig(f"{path}.svg", metadata=nothing, transparent=True)
