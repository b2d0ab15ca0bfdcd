"""What K3M's structure aggregation looks at: a few products' pictures beside their triples."""

import dataclasses
import pathlib
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from k3m_jax.data.input.embedding_batches import embedding_batches
from k3m_jax.data.input.inspection import fonts
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.modalities import pixels
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.runs.measure import open_run_data
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.sweeps.report.document import Figure
from k3m_jax.sweeps.report.figures import INK, STYLE
from k3m_jax.training.checkpoints import load_meta, load_params

PRODUCTS = 6
TRIPLES = 4  # an item with fewer shows little


class Seen(NamedTuple):
    """An item, and how its triples were weighed."""

    title: str
    picture: bytes
    triples: tuple[str, ...]  # "property: value", as many as the model was given
    weights: np.ndarray  # [H, triples], each head's sum to 1


def attended(run: pathlib.Path, split: str) -> list[Seen]:
    """What a pretrained K3M's aggregation weighs, of some of a split's products.

    Products are taken evenly from the split, among those with title, picture and a few triples.

    Raises:
      UserError: no run, data that are not there any more, or none of such items.
    """
    meta = load_meta(run, "latest")
    settings = Settings.from_config(meta.settings)
    inputs = open_run_data(settings.data, meta, epath.Path(run))
    records = chosen(inputs.shard_sets[0].source(split))
    if not records:
        raise UserError(f"no item of {split} has title, picture and {TRIPLES} triples")
    group = settings.objectives.group
    evaluation = dataclasses.replace(settings.evaluation, batch=-(-PRODUCTS // group) * group)
    settings = dataclasses.replace(settings, evaluation=evaluation, mesh=Mesh(data=1))
    network = Network(inputs.resolve(settings))
    params, _ = load_params(run, "latest", network, make_mesh(settings.mesh))
    (batch,) = embedding_batches(network.settings, [records], inputs.tokenizer)
    product = jax.jit(network.product)(params, batch)
    attention = np.asarray(product.triple_attention)
    return [
        Seen(
            record["title"],
            record["picture"],
            told := _triples(batch, row, inputs.tokenizer),
            attention[row, :, : len(told)],
        )
        for row, record in enumerate(records)
    ]


def chosen(source: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Up to `PRODUCTS` items of as many products, evenly from the split."""
    found, products = [], set()
    for start in np.linspace(0, len(source), PRODUCTS, endpoint=False, dtype=int):
        for index in range(start, len(source)):
            record = source[index]
            telling = record["title"] and record["picture"] and len(record["values"]) >= TRIPLES
            if telling and record["product"] not in products:
                found.append(record)
                products.add(record["product"])
                break
    return found


def draw_attention(seen: Sequence[Seen], path: pathlib.Path, told: str) -> Figure:
    """Bars are means over heads; a line is where all triples would weigh the same.

    Args:
      seen: one item at least.
      path: of the figure.
      told: of which run and which products it is.
    """
    with matplotlib.rc_context({**STYLE, "font.family": ["DejaVu Sans", *fonts()]}):
        rows = -(-len(seen) // 2)
        canvas = Canvas(figsize=(9.5, 2.7 * rows + 0.3), layout="constrained")
        axes = canvas.subplots(rows, 4, squeeze=False, width_ratios=(1, 1.2) * 2).reshape(-1, 2)
        for (photo, bars), each in zip(axes, seen, strict=False):
            photo.imshow(pixels.decode(each.picture))
            photo.set_title("\n".join(textwrap.wrap(each.title, 22)[:4]), fontsize=8, loc="left")
            _draw_bars(bars, each)
        for axis in [*axes[:, 0], *axes[len(seen) :, 1]]:
            axis.set_axis_off()
        (alike,) = axes[0, 1].lines
        place = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
        canvas.legend([alike], ["where all triples would weigh the same"], **place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # an emoji in a title
            canvas.savefig(f"{path}.png", dpi=140)
    heads = len(seen[0].weights)
    note = (
        f"{told} Weights of the aggregation over an item's triples, mean over {heads} "
        f"head{'s' * (heads > 1)}."
    )
    return Figure(path, "What the structure aggregation looks at", note)


def _draw_bars(axis: Axes, seen: Seen) -> None:
    weights = 100 * seen.weights.mean(0)
    order = np.argsort(weights)
    axis.barh(range(len(order)), weights[order], color="#0072B2", height=0.7)
    labels = [textwrap.shorten(seen.triples[i], 32, placeholder="…") for i in order]
    axis.set_yticks(range(len(order)), labels, fontsize=8)
    axis.axvline(100 / len(order), color=INK, linestyle=":", linewidth=1)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("weight (%)", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _triples(batch: Mapping[str, np.ndarray], row: int, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Those that the batch has room for, read back from its tokens."""
    tokens = batch["knowledge_tokens"][row]
    spans = zip(batch["property_spans"][row], batch["value_spans"][row], strict=True)
    told = [": ".join(tokenizer.decode(tokens[slice(*span)]) for span in pair) for pair in spans]
    return tuple(told[: int(batch["triple_mask"][row].sum())])
