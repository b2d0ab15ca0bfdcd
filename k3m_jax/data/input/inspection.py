"""What the model sees of a few rows of a batch, as text and as a figure."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.figure
import numpy as np
from etils import epath
from matplotlib import font_manager, patches

from k3m_jax.data.input.examples import PretrainingExample
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.modalities import pixels
from k3m_jax.settings import Settings

ASKED, SEEN = "#e4572e", "#2e86ab"  # colours of boxes
FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "SimHei")
LEGEND = """\
title      [MASK→word] a token hidden and asked for; [other→word] replaced; [word] kept, asked for
knowledge  property‹value› as spans of tokens; what is asked is taken out of it, or [MASK] in it
negatives  values false of the item, and rows of its group whose product lacks the asked value"""


def describe(
    batch: Mapping[str, np.ndarray],
    row: int,
    examples: Sequence[PretrainingExample],
    tokenizer: Tokenizer,
    settings: Settings,
) -> str:
    """One row as lines of text: what the arrays say, with the item's id and product beside them.

    Args:
      batch: made of `examples`.
      row: which one.
      examples: of all rows.
      tokenizer: that made the tokens.
      settings: sizes.
    """
    arrays = {name: array[row] for name, array in batch.items()}
    record = examples[row].record
    lines = [
        f"row {row}: {record['id']}, product {record['product']}",
        f"  title      {_title(arrays, tokenizer) or 'absent'}",
    ]
    if "region_mask" in arrays:
        lines.append(f"  picture    {_picture(arrays) or 'absent'}")
    if "triple_mask" in arrays:
        lines.append(
            f"  knowledge  {_knowledge(arrays, tokenizer) or 'absent'}"
            f"  ({arrays['triple_mask'].sum()} of {len(record['values'])} triples)"
        )
    if "value_weights" in arrays:
        asked = int(arrays["value_weights"].sum())
        return "\n".join([*lines, f"  asked      {asked} tokens: all values but the first"])
    if "link_tokens" not in arrays:
        return "\n".join(lines)
    asked = list(_candidates(arrays, tokenizer))
    if not asked:
        return "\n".join([*lines, "  asked      nothing: the item has no triple"])
    first = row // settings.objectives.group * settings.objectives.group
    others = first + arrays["link_items"][arrays["link_item_weights"] > 0]
    values = ", ".join(asked[1:]) or "no value"
    items = ", ".join(f"row {i} ({examples[i].record['product']})" for i in others) or "no item"
    return "\n".join([*lines, f"  asked      {asked[0]}", f"  negatives  {values}; {items}"])


def draw(
    batch: Mapping[str, np.ndarray],
    rows: int,
    examples: Sequence[PretrainingExample],
    texts: Sequence[str],
    settings: Settings,
    path: epath.PathLike,
) -> None:
    """Writes a PNG: for each of the first rows its picture with regions and classes, the picture
    with what is hidden from the model, and `texts`, what `describe` says of it."""
    family = ["DejaVu Sans Mono", *fonts()]
    figure = matplotlib.figure.Figure(figsize=(15, 4 * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.15)
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1, 1.6))
    for row in range(rows):
        arrays = {name: array[row] for name, array in batch.items()}
        for column, axis in enumerate(axes[row]):
            axis.set_axis_off()
            if column == 2:
                wrapped = "\n".join(_wrap(texts[row], 80))
                axis.text(0, 1, wrapped, va="top", fontsize=9, family=family, parse_math=False)
            elif "region_mask" in arrays and arrays["region_mask"].any():
                _draw_regions(axis, arrays, _pixels(arrays, examples[row], settings), column == 1)
            else:
                axis.text(0.5, 0.5, "no picture", ha="center", color="grey")
    axes[0, 0].set_title("regions and their most probable class", fontsize=10)
    axes[0, 1].set_title("as the model sees it: red is asked for, grey is hidden", fontsize=10)
    with epath.Path(path).open("wb") as file, warnings.catch_warnings():
        # Without a Chinese font there are boxes in the figure; the printed text has it all.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="png", dpi=80)


def fonts() -> list[str]:
    """Of `FONTS`, which Chinese titles want, those that this machine has."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return [font for font in FONTS if font in known]


def _title(row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> str:
    asked = row["mlm_weights"] > 0
    targets = dict(zip(row["mlm_positions"][asked], row["mlm_targets"][asked], strict=True))
    words = []
    for position in np.flatnonzero(row["title_content"]):
        token = row["title_tokens"][position]
        target = targets.get(position)
        shown = "MASK" if token == tokenizer.mask else tokenizer.token(token)
        if target == token:
            shown = f"[{shown}]"
        elif target is not None:
            shown = f"[{shown}→{tokenizer.token(target)}]"
        words.append(shown)
    return " ".join(words)


def _picture(row: Mapping[str, np.ndarray]) -> str:
    regions = row["region_mask"][1:].sum()
    asked, hidden = int(row["mom_weights"].sum()), row["region_hidden"].sum()
    return f"{regions} regions, {asked} asked for, {hidden} hidden" if regions else ""


def _knowledge(row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> str:
    spans = zip(row["property_spans"], row["value_spans"], row["triple_mask"], strict=True)
    tokens = row["knowledge_tokens"]
    return " ".join(
        f"{tokenizer.decode(tokens[slice(*p)])}‹{tokenizer.decode(tokens[slice(*v)])}›"
        for p, v, valid in spans
        if valid
    )


def _candidates(row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> Iterator[str]:
    for j in np.flatnonzero(row["link_mask"].any(1)):
        tokens = row["link_tokens"][j]
        p, v = (
            tokenizer.decode(tokens[slice(*row[f"link_{kind}_spans"][j])])
            for kind in ("property", "value")
        )
        yield f"{p}‹{v}›" if j == 0 else v


def _pixels(
    row: Mapping[str, np.ndarray], example: PretrainingExample, settings: Settings
) -> np.ndarray:
    """What regions are drawn on: the patches put together again, or the stored picture, if any."""
    if settings.image.front_end == "patches":
        g, P = settings.image.grid, settings.image.patch_size
        patches_ = row["region_inputs"].reshape(g, g, P, P, 3)
        return patches_.swapaxes(1, 2).reshape(g * P, g * P, 3)
    stored = example.record["picture"]
    return pixels.decode(stored) if stored else np.full((192, 192, 3), 255, np.uint8)


def _draw_regions(
    axis: matplotlib.axes.Axes, row: Mapping[str, np.ndarray], pixels: np.ndarray, as_seen: bool
) -> None:
    height, width, _ = pixels.shape
    axis.imshow(pixels)
    for i in np.flatnonzero(row["region_mask"][1:]):
        x1, y1, x2, y2, _ = row["region_boxes"][i + 1] * (width, height, width, height, 1)
        asked, hidden = row["mom_weights"][i] > 0, row["region_hidden"][i]
        place = {"xy": (x1, y1), "width": x2 - x1, "height": y2 - y1}
        if as_seen and hidden:
            axis.add_patch(patches.Rectangle(**place, fc="0.75", ec="0.5", hatch="//", lw=0))
        edge = ASKED if as_seen and asked else SEEN
        style = {"lw": 2, "zorder": 3} if as_seen and asked else {"lw": 0.5}
        axis.add_patch(patches.Rectangle(**place, fill=False, ec=edge, **style))
        if row["class_probs"][i].any() and (asked or not as_seen):
            label = row["class_ids"][i, row["class_probs"][i].argmax()]
            box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
            axis.text(x1 + 2, y1 + 2, str(label), fontsize=7, va="top", bbox=box, zorder=4)


def _wrap(text: str, width: int) -> Iterator[str]:
    """Lines cut to a width, what is continued indented; by characters, as Chinese has no blanks."""
    for line in text.splitlines():
        while len(line) > width:
            cut = line.rfind(" ", width // 2, width) + 1 or width
            yield line[:cut]
            line = " " * 13 + line[cut:]
        yield line
