"""Attention of K3M's structure aggregation over the triples of a few products."""

import dataclasses
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from k3m_jax.data.input.inspection import fonts
from k3m_jax.data.input.pipeline import inference_batches
from k3m_jax.data.records import ItemView, Record
from k3m_jax.modalities import pixels
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs.measure import open_run_data
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.sweeps.report.document import Figure
from k3m_jax.sweeps.report.figures import INK, STYLE
from k3m_jax.training.checkpoints import load_meta, load_params

PRODUCTS = 6
TRIPLES = 4  # fewer would show little


class AttendedItem(NamedTuple):
    """An item and the attention weights of its triples."""

    title: str
    picture: bytes
    triples: tuple[str, ...]  # "property: value", as many as fit the model's input
    weights: np.ndarray  # [H, triples], each head sums to 1


def read_attention(run: pathlib.Path, split: str) -> list[AttendedItem]:
    """Attention weights of a pretrained K3M for some products of a split.

    Products are taken evenly from the split, among those with title, picture and enough triples.

    Raises:
      UserError: no run, its data are gone, or no item qualifies.
    """
    meta = load_meta(run, "latest")
    settings = Settings.from_config(meta.settings)
    inputs = open_run_data(settings.data, meta, epath.Path(run))
    records = choose_records(inputs.shard_sets[0].source(split))
    if not records:
        raise UserError(f"no item of {split} has title, picture and {TRIPLES} triples")
    group = settings.objectives.group
    evaluation = dataclasses.replace(settings.evaluation, batch=-(-PRODUCTS // group) * group)
    settings = dataclasses.replace(settings, evaluation=evaluation, mesh=Mesh(data=1))
    network = Network(inputs.resolve(settings))
    params, _ = load_params(run, "latest", network, make_mesh(settings.mesh))
    views = list(map(ItemView.of, records))
    (batch,) = inference_batches(network.settings, [views], inputs.tokenizer)
    product = jax.jit(network.product)(params, batch)
    items = []
    for record, weights in zip(records, np.asarray(product.triple_attention), strict=False):
        weights = weights[:, weights.any(0)]  # padding has none
        triples = tuple(map(": ".join, record.triples))[: weights.shape[1]]
        items.append(AttendedItem(record.title, record.picture, triples, weights))
    return items


def choose_records(source: Sequence[Record]) -> list[Record]:
    """Up to `PRODUCTS` items of different products, evenly from the split."""
    found, products = [], set()
    for start in np.linspace(0, len(source), PRODUCTS, endpoint=False, dtype=int):
        for index in range(start, len(source)):
            record = source[index]
            qualifies = record.title and record.picture and len(record.triples) >= TRIPLES
            if qualifies and record.product not in products:
                found.append(record)
                products.add(record.product)
                break
    return found


def draw_attention(items: Sequence[AttendedItem], path: pathlib.Path, source: str) -> Figure:
    """Bars are means over heads; a line marks equal weights.

    Args:
      items: at least one.
      path: of the figure, without suffix.
      source: a sentence that names the run and the products.
    """
    with matplotlib.rc_context({**STYLE, "font.family": ["DejaVu Sans", *fonts()]}):
        rows = -(-len(items) // 2)
        canvas = Canvas(figsize=(9.5, 2.7 * rows + 0.3), layout="constrained")
        axes = canvas.subplots(rows, 4, squeeze=False, width_ratios=(1, 1.2) * 2).reshape(-1, 2)
        for (photo, bars), each in zip(axes, items, strict=False):
            photo.imshow(pixels.decode(each.picture))
            photo.set_title("\n".join(textwrap.wrap(each.title, 22)[:4]), fontsize=8, loc="left")
            _draw_bars(bars, each)
        for axis in [*axes[:, 0], *axes[len(items) :, 1]]:
            axis.set_axis_off()
        (equal,) = axes[0, 1].lines
        place = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
        canvas.legend([equal], ["equal weights"], **place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # an emoji in a title
            canvas.savefig(f"{path}.png", dpi=140)
    heads = len(items[0].weights)
    note = (
        f"{source} Attention weights of an item's triples, mean over {heads} "
        f"head{'s' * (heads > 1)}."
    )
    return Figure(path, "Attention of the structure aggregation", note)


def _draw_bars(axis: Axes, item: AttendedItem) -> None:
    weights = 100 * item.weights.mean(0)
    order = np.argsort(weights)
    axis.barh(range(len(order)), weights[order], color="#0072B2", height=0.7)
    labels = [textwrap.shorten(item.triples[i], 32, placeholder="…") for i in order]
    axis.set_yticks(range(len(order)), labels, fontsize=8)
    axis.axvline(100 / len(order), color=INK, linestyle=":", linewidth=1)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("weight (%)", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
