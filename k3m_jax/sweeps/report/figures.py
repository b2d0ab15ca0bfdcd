"""Figures of a grid: metrics against the share of corrupt items, and the ablations.

Text and K3M's lines are drawn in `INK`, which a page may replace by its own text colour.
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
from k3m_jax.sweeps.report.document import Figure, Table
from k3m_jax.sweeps.report.scores import MetricView, Score

INK, GREY = "#15191e", "#7a828c"
# Okabe and Ito's palette, which colour-blind readers can distinguish: one colour per architecture,
# a solid line and filled marks if it reads the triples, dashes and hollow marks if it doesn't.
COLOURS = {"bert": "#E69F00", "vilbert": "#0072B2", "vlbert": "#009E73", "lxmert": "#D55E00"}
SPARE = ("#CC79A7", "#56B4E9", "#8C6D31")
MARKS = {"bert": "v", "vilbert": "s", "vlbert": "D", "lxmert": "^"}
# For only two rates: the line shows what belongs together and claims nothing in between.
ENDS = {"linestyle": (0, (1, 3)), "linewidth": 0.8, "elinewidth": 1.2, "capsize": 0}
OFFSET = 0.022  # between the ends of neighbouring models, as a share of the highest rate
WIDTH, COLUMNS = 8, 3  # width in inches: letters stay readable in a column of text
BEST_TRIVIAL = "best trivial"
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "grid.color": GREY,
    "axes.labelsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: searchable, in the page's colour
    "svg.hashsalt": "k3m_jax",  # the same numbers make the same file
}


def draw_rate_curves(view: MetricView, folder: pathlib.Path) -> Figure | None:
    """A metric against the rate, a panel for each setting; None if no rate was varied."""
    conditions = view.conditions(view.has_row)
    rates = _rates(condition.corruption for condition in conditions)
    if not rates:
        return None
    names = naming.models_in_order(condition.model for condition in conditions)
    models = [name for name in names if not naming.is_trivial_baseline(name)]
    trivial = [name for name in names if naming.is_trivial_baseline(name)]
    styles = _styles(models)
    rows = -(-len(rates) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 2.1 * rows + 1.2), layout="constrained")
        axes = _panels(canvas, rows, COLUMNS, len(rates), sharey=True)
        drawn = []
        for axis, (setting, varied) in zip(axes, rates.items(), strict=True):
            for i, model in reversed([*enumerate(models)]):  # K3M on top
                line = _line(view, model, setting, varied)
                offset = OFFSET * varied[-1] * (i - (len(models) - 1) / 2)
                _draw_line(axis, line, naming.model_name(model), styles[model], offset)
                drawn.append(line)
            _draw_best(axis, [_line(view, name, setting, varied) for name in trivial])
            _style_axis(axis, setting)
            axis.set_xticks(varied)
        for axis in axes[-COLUMNS:]:  # the legend would cover the canvas' own label
            axis.set_xlabel("items that are corrupt (%)")
        canvas.supylabel(f"{view.task}: {view.name} (%)", fontsize=10)
        order = [*map(naming.model_name, models)]
        order.insert(1, BEST_TRIVIAL)  # below K3M, so that each baseline is above its +PKG variant
        _legend(canvas, order, _caption(drawn, any(trivial)))
        path = folder / slug(view.data, view.task, view.metric)
        _write(canvas, path)
    title = f"{view.task.capitalize()}, {view.name}, against the share of corrupt items"
    return Figure(path, title)


def draw_ablations(differences: Table, folder: pathlib.Path) -> Figure:
    """The table of ablation differences, a panel for each column."""
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
            _style_axis(axis, column.name)
            axis.set_yticks(range(len(rows)), [row.name for row in rows])
            axis.set_ylim(-0.6, len(rows) - 0.4)
        canvas.supxlabel("difference from K3M (points)", fontsize=10)
        path = folder / differences.key
        _write(canvas, path)
    several = any(isinstance(cell, Score) and cell.spread for row in rows for cell in row.cells)
    bars = "Bars are one standard deviation over seeds." if several else "One seed: no spread."
    note = f"Left of 0, K3M without the change is better. {bars}"
    return Figure(path, "Ablations of K3M", note)


def _rates(corruptions: Iterable[str]) -> dict[str, list[int]]:
    """0 and the measured rates of each setting, in the protocol's order."""
    found = set(map(naming.split_corruption, corruptions))
    rates = {s: sorted(rate for setting, rate in found if setting == s) for s in naming.SETTINGS}
    return {setting: [0, *varied] for setting, varied in rates.items() if varied}


def _line(view: MetricView, model: str, setting: str, rates: Sequence[int]) -> dict[int, Score]:
    """The measured scores of a model by rate."""
    scores = {rate: view.score(model, f"{setting}{rate}" if rate else "") for rate in rates}
    return {rate: score for rate, score in scores.items() if score}


def _panels(canvas: Canvas, rows: int, columns: int, count: int, **shared: bool) -> list[Axes]:
    """The first `count` axes of a grid; the rest is left empty."""
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


def _is_curve(line: Mapping[int, Score]) -> bool:
    """Whether anything was measured between its ends."""
    return len(line) > 2


def _draw_line(
    axis: Axes, line: Mapping[int, Score], label: str, style: dict[str, Any], offset: float = 0
) -> None:
    means = np.array([100 * score.mean for score in line.values()])
    spreads = np.array([100 * (score.spread or 0) for score in line.values()])
    style = {"markersize": 4, "label": label, **style}
    if not _is_curve(line):
        bars = spreads if spreads.any() else None
        axis.errorbar([rate + offset for rate in line], means, bars, **style | ENDS)
        return
    axis.plot(list(line), means, **style)
    if spreads.any():
        band = {"color": style["color"], "alpha": 0.13, "linewidth": 0}
        axis.fill_between(list(line), means - spreads, means + spreads, **band)


def _draw_best(axis: Axes, lines: Sequence[Mapping[int, Score]]) -> None:
    """The best of the trivial baselines at each rate."""
    rates = sorted(set().union(*lines))
    if rates:
        means = [max(line[rate].mean for line in lines if rate in line) for rate in rates]
        best = {rate: Score(mean) for rate, mean in zip(rates, means, strict=True)}
        style = {"color": GREY, "linestyle": ":", "linewidth": 1.3, "zorder": 1}
        mark = {} if _is_curve(best) else {"marker": "_", "markersize": 12}
        _draw_line(axis, best, BEST_TRIVIAL, style | mark)


def _style_axis(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def _caption(lines: Sequence[Mapping[int, Score]], trivial: bool) -> str:
    """How to read the lines, for a figure that is shown without its page."""
    curves = any(_is_curve(line) for line in lines)
    ends = any(line and not _is_curve(line) for line in lines)
    texts = [f"Filled: reads the triples; hollow{', dashed' * curves}: does not."]
    if any(score.spread for line in lines for score in line.values()):
        marks = " and ".join(["Bands"] * curves + ["bars"] * ends).capitalize()
        texts.append(f"{marks}: one standard deviation over seeds.")
    if trivial:
        texts.append("Best trivial: at each rate the best baseline without a model.")
    if ends:
        texts.append("Thin dots join two rates with no measurement in between.")
    return textwrap.fill(" ".join(texts), 115)


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
