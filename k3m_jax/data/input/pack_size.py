"""How many rows the packed texts of a run need: found from a sample of its own items."""

import dataclasses

import numpy as np

from k3m_jax.data.input.batch import BatchLayout, PretrainingExample
from k3m_jax.data.input.packing import Pack, enough_rows, row_length, text_names
from k3m_jax.data.input.pipeline import Inputs, train_items
from k3m_jax.settings import Settings

SAMPLE = 512  # items, without their pictures
TRIALS = 64  # packs drawn from them
PROGRAM_STEPS = 300  # that compiling a step once more is taken to cost
MOST_ITEMS = 128  # of a pack: more would hardly fill rows better


def with_pack_size(settings: Settings, inputs: Inputs, shards: int) -> tuple[Settings, str]:
    """Resolved settings with `packing.products` and `rows`, and a line that says what was found.

    `shards` is how many blocks of rows a batch is split into. A sample decides because only a run
    knows its tokenizer, lengths and candidates. It depends on the settings and the data alone.
    """
    packing, training, group = settings.packing, settings.training, settings.objectives.group
    padded = dataclasses.replace(settings, packing=dataclasses.replace(packing, texts=False))
    layout = BatchLayout.of(padded)
    names = text_names(settings, layout.arrays)
    if not packing.texts or not names:
        return padded, "texts are padded"
    items = packing.products or _most_items(
        training.batch // (shards * training.accumulation), group
    )
    if items % group:
        items = group  # `Trainer` says what does not fit
    length, share, rows = row_length(names, layout.arrays), "", packing.rows
    if not rows:
        needed, tokens = _sampled_needs(padded, inputs, layout, items, length)
        packs = np.random.default_rng(0).choice(
            needed, (16 * TRIALS, max(1, training.batch // items))
        )
        rows = cheapest_rows(packs.max(1), training.steps)
        share = f", about {tokens / (rows * length):.0%} of them real"
    settings = dataclasses.replace(
        settings, packing=dataclasses.replace(packing, products=items, rows=rows)
    )
    return settings, f"texts of {items} items share {rows} rows of {length} tokens{share}"


def _most_items(rows: int, group: int) -> int:
    """The largest multiple of `group` that divides a device's rows and is not too large."""
    groups = max(1, rows // group)
    fitting = (n for n in range(1, groups + 1) if groups % n == 0 and n * group <= MOST_ITEMS)
    return group * max(fitting, default=1)


def _sampled_needs(
    settings: Settings, inputs: Inputs, layout: BatchLayout, items: int, length: int
) -> tuple[np.ndarray, float]:
    """The rows that drawn packs need [TRIALS], and how many tokens one has on average."""
    names = text_names(settings, layout.arrays)
    texts = _text_layout(layout)
    # Of one seed, so that repetitions of a run with other seeds share a program.
    stream = train_items(dataclasses.replace(settings, seed=0), inputs, texts)
    sample: list[PretrainingExample] = [stream[row] for row in range(SAMPLE)]
    batch = texts.collate(sample)
    arrays = {name: tuple(batch[f"{name}_{part}"] for part in ("tokens", "mask")) for name in names}
    rng, packs = np.random.default_rng(0), []
    for _ in range(TRIALS):
        chosen = rng.choice(SAMPLE, items, replace=items > SAMPLE)
        drawn = {name: (tokens[chosen], mask[chosen]) for name, (tokens, mask) in arrays.items()}
        packs.append(Pack(drawn, length))
    tokens = float(np.mean([len(pack.tokens) for pack in packs]))
    return np.array([pack.rows for pack in packs]), tokens


def cheapest_rows(needed: np.ndarray, steps: int) -> int:
    """Of batches that need so many rows a pack, the number to have for `steps` steps.

    Fewer make each step cheaper, but more batches need more, and a program of their own: at most a
    quarter of them may.
    """

    def cost(rows: int) -> float:
        found, times = np.unique([enough_rows(rows, n) for n in needed], return_counts=True)
        uses = steps * times / len(needed)
        return float((found * (uses + PROGRAM_STEPS * (uses >= 0.5))).sum())

    fewest, most = np.quantile(needed, (0.75, 1), method="higher").clip(min=1)
    return min(range(int(fewest), int(most) + 1), key=cost)


def _text_layout(layout: BatchLayout) -> BatchLayout:
    """The part of a layout that makes texts."""

    def has_text(part) -> bool:
        return any(name.endswith("_tokens") for name in part.arrays)

    return dataclasses.replace(
        layout,
        modalities=tuple(filter(has_text, layout.modalities)),
        objectives=tuple(filter(has_text, layout.objectives)),
        group=1,
    )
