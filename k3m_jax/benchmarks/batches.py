"""Batches to time a step on: of a data set, or of noise that fills every place."""

import dataclasses

import numpy as np

from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.data.input.pipeline import Inputs, train_items
from k3m_jax.settings import Settings

Arrays = dict[str, np.ndarray]


def noise(settings: Settings, rows: int, seed: int = 0) -> Arrays:
    """A batch in which every token, region, triple and target is there, padded text alone."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, (shape, dtype) in BatchLayout.of(settings).padded.spec(rows).items():
        if np.issubdtype(dtype, np.bool_):
            arrays[name] = np.ones(shape, bool)
        elif name.endswith(("_tokens", "_targets")):
            arrays[name] = rng.integers(0, settings.model.vocabulary, shape).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            arrays[name] = rng.random(shape).astype(dtype)
        else:
            arrays[name] = np.zeros(shape, dtype)
    return arrays


def real(settings: Settings, inputs: Inputs, count: int) -> list[Arrays]:
    """The first `count` training batches of resolved settings, padded text alone."""
    layout, size = BatchLayout.of(settings).padded, settings.training.batch
    items = train_items(settings, inputs)
    return [
        layout.collate(
            [items[step * size + row] for row in range(size)],
            range(step * size // layout.group, (step + 1) * size // layout.group),
            settings.seed,
        )
        for step in range(count)
    ]


def with_regions_of_noise(settings: Settings, regions: Settings, batches: list[Arrays]) -> list:
    """Batches of `settings`, with full pictures of noise as `regions` has them instead."""
    texts = BatchLayout.of(settings).padded
    own = dataclasses.replace(
        texts,
        modalities=tuple(m for m in texts.modalities if m.name != "image"),
        objectives=tuple(o for o in texts.objectives if o.name != "mom"),
    )
    return [
        noise(regions, len(batch["title_tokens"]), seed)
        | {name: batch[name] for name in own.arrays}
        for seed, batch in enumerate(batches)
    ]


def packed(settings: Settings, batches: list[Arrays]) -> list[Arrays]:
    """The same with packed text where the settings have it."""
    packing = BatchLayout.of(settings).packing
    return [batch | packing.pack(batch) for batch in batches] if packing else batches


def real_tokens(batch: Arrays) -> tuple[int, int]:
    """Text tokens that are there, and places that the text encoder computes."""
    if "packed_segments" in batch:
        segments = batch["packed_segments"]
        return int((segments > 0).sum()), segments.size
    masks = [batch[f"{name}_mask"] for name in ("title", "knowledge", "link")]
    return sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks)
