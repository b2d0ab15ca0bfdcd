"""Valid batches of noise."""

import numpy as np

from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.settings import Settings


def random_batch(settings: Settings, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A valid batch; every weight is in use."""
    rng = np.random.default_rng(seed)
    s, G = settings, settings.objectives.group
    layout = BatchLayout.of(s)
    spec = layout.padded.spec(rows)
    batch = {k: np.zeros(shape, dtype) for k, (shape, dtype) in spec.items()}
    T, K, X, L = s.text_length, s.lengths.knowledge, s.lengths.triples, s.lengths.candidate
    tokens = ("title_tokens", "knowledge_tokens", "link_tokens", "mlm_targets", "value_targets")
    for name in filter(batch.__contains__, tokens):
        batch[name] = rng.integers(0, s.model.vocabulary, batch[name].shape).astype(np.int32)
    for name in filter(batch.__contains__, ("title_mask", "region_mask", "knowledge_mask")):
        batch[name][:] = True
    batch["title_content"][:, 1 : T - 1] = True
    if "mlm_positions" in batch:
        M = batch["mlm_positions"].shape[1]
        batch["mlm_positions"][:] = 1 + np.arange(M) % (T - 2)
        batch["mlm_weights"][:] = 1
    if "mom_weights" in batch:
        _fill_picture(batch, settings, rng)
    triples = min(X, (K - 2) // 2)
    start = 1 + 2 * np.arange(triples)
    if "triple_mask" in batch:
        batch["property_spans"][:, :triples] = np.stack([start, start + 1], -1)
        batch["value_spans"][:, :triples] = np.stack([start + 1, start + 2], -1)
        batch["triple_mask"][:, :triples] = True
    if "label" in batch:
        batch["label_weights"][:] = 1
    if "value_weights" in batch:
        batch["value_weights"][:, start[1:] + 1] = 1
        batch["pair_weights"][:] = G > 1
    if "link_mask" in batch:
        batch["link_mask"][:] = True
        batch["link_property_spans"][:] = (1, 2)
        batch["link_value_spans"][:] = (2, L - 1)
        batch["link_value_weights"][:] = 1
        if G > 1 and "link_items" in batch:
            others = batch["link_items"].shape[1]
            batch["link_items"][:] = (np.arange(rows)[:, None] + 1 + np.arange(others)) % G
            batch["link_item_weights"][:] = 1
    return batch | (layout.packing.pack(batch) if layout.packing else {})


def _fill_picture(
    batch: dict[str, np.ndarray], settings: Settings, rng: np.random.Generator
) -> None:
    rows, regions = batch["mom_weights"].shape
    if settings.image.front_end == "patches":
        batch["region_inputs"][:] = rng.integers(0, 256, batch["region_inputs"].shape)
    else:
        batch["region_inputs"][:] = rng.normal(size=batch["region_inputs"].shape)
    corners = np.sort(rng.random((rows, regions, 2, 2)), axis=2)
    x1, y1, x2, y2 = (corners[:, :, i, j] for i in (0, 1) for j in (0, 1))
    batch["region_boxes"][:, 1:] = np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], -1)
    batch["region_boxes"][:, 0] = (0, 0, 1, 1, 1)
    targets = rng.random(batch["mom_weights"].shape) < settings.objectives.mom.rate
    targets[:, 0] = True
    batch["mom_weights"][:] = targets
    batch["region_hidden"][:] = targets
    batch["class_ids"][:] = rng.integers(0, settings.image.classes, batch["class_ids"].shape)
    batch["class_probs"][:] = rng.dirichlet(np.ones(settings.image.top_classes), targets.shape)
