"""What the model sees of a few rows of a training batch, as text and as a figure."""

import itertools
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
from etils import epath
from matplotlib import font_manager, patches

from k3m_jax.data.input.batch import Batch, BatchLayout, PretrainingExample
from k3m_jax.data.input.pipeline import Inputs, train_items
from k3m_jax.modalities import pixels
from k3m_jax.settings import Settings, UserError

TARGET, VISIBLE = "#e4572e", "#2e86ab"  # colours of boxes
FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "SimHei")


def first_rows(
    settings: Settings, inputs: Inputs, step: int, rows: int
) -> tuple[list[PretrainingExample], dict[str, np.ndarray], list[str]]:
    """The first rows of a step's batch: examples and arrays, in whole groups, and texts.

    The text of a row has a line for each modality and each objective. Raises UserError where the
    batch has fewer rows.
    """
    layout, batch = BatchLayout.of(settings), settings.training.batch
    if rows > batch:
        raise UserError(f"--rows {rows} is more than training.batch {batch}")
    items, first, size = train_items(settings, inputs), step * batch, layout.group
    examples = [items[first + row] for row in range(-(-rows // size) * size)]
    groups = range(first // size, (first + len(examples)) // size)
    arrays, texts = layout.collate(examples, groups, settings.seed), []
    names = [f"row {n} ({e.view.record.product})" for n, e in enumerate(examples)]
    for row, example in enumerate(examples[:rows]):
        values = {name: array[row] for name, array in arrays.items()}
        group, words = names[row // size * size :][:size], inputs.tokenizer
        lines = {m.name: m.describe(values, words) or "absent" for m in layout.modalities}
        lines |= {o.name: o.describe(values, words, group) for o in layout.objectives}
        title = f"row {row}: {example.view.record.id}, product {example.view.record.product}"
        texts.append("\n".join([title, *(f"  {name:<10} {text}" for name, text in lines.items())]))
    return examples, arrays, texts


def draw(
    batch: Batch,
    examples: Sequence[PretrainingExample],
    texts: Sequence[str],
    path: epath.PathLike,
) -> None:
    """Writes a PNG: of each row its text, and its picture with all regions and with hidden ones."""
    family, rows = ["DejaVu Sans Mono", *fonts()], len(texts)
    figure = matplotlib.figure.Figure(figsize=(15, 4 * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.15)
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1, 1.6))
    for row, text in enumerate(texts):
        arrays = {name: array[row] for name, array in batch.items()}
        for axis in axes[row]:
            axis.set_axis_off()
        for axis, hiding in zip(axes[row, :2], (False, True), strict=True):
            if "region_mask" in arrays and arrays["region_mask"].any():
                jpeg = examples[row].view.visible["image"].jpeg  # regions may come without
                picture = pixels.decode(jpeg) if jpeg else np.full((192, 192, 3), 255, np.uint8)
                _draw_regions(axis, arrays, picture, hiding)
            else:
                axis.text(0.5, 0.5, "no picture", ha="center", color="grey")
        # By characters where there are no blanks, as in Chinese.
        lines = (textwrap.wrap(line, 80, subsequent_indent=" " * 13) for line in text.splitlines())
        wrapped = "\n".join(itertools.chain(*lines))
        axes[row, 2].text(0, 1, wrapped, va="top", fontsize=9, family=family, parse_math=False)
    axes[0, 0].set_title("regions and their most probable class", fontsize=10)
    axes[0, 1].set_title("as the model sees it: targets red, hidden regions grey", fontsize=10)
    with epath.Path(path).open("wb") as file, warnings.catch_warnings():
        # Without a Chinese font the figure shows boxes; the printed text has the characters.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="png", dpi=80)


def fonts() -> list[str]:
    """Those of `FONTS`, for Chinese titles, that this machine has."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return [font for font in FONTS if font in known]


def _draw_regions(
    axis: matplotlib.axes.Axes, row: Mapping[str, np.ndarray], picture: np.ndarray, hiding: bool
) -> None:
    height, width, _ = picture.shape
    axis.imshow(picture)
    nothing = np.zeros((len(row["region_mask"]) - 1, 1))
    targets = row.get("mom_weights", nothing[:, 0]) > 0
    hidden, probs = row.get("region_hidden", targets), row.get("class_probs", nothing)
    for i in np.flatnonzero(row["region_mask"][1:]):
        x1, y1, x2, y2, _ = row["region_boxes"][i + 1] * (width, height, width, height, 1)
        box = {"xy": (x1, y1), "width": x2 - x1, "height": y2 - y1}
        if hiding and hidden[i]:
            axis.add_patch(patches.Rectangle(**box, fc="0.75", ec="0.5", hatch="//", lw=0))
        target = hiding and targets[i]
        style = {"ec": TARGET, "lw": 2, "zorder": 3} if target else {"ec": VISIBLE, "lw": 0.5}
        axis.add_patch(patches.Rectangle(**box, fill=False, **style))
        if probs[i].any() and (targets[i] or not hiding):
            label = str(row["class_ids"][i, probs[i].argmax()])
            frame = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
            axis.text(x1 + 2, y1 + 2, label, fontsize=7, va="top", bbox=frame, zorder=4)
