"""The one description of a batch, and the legend of shape letters used everywhere.

    B  items of a batch                       T  tokens of a title (see `Settings.text_length`)
    K  tokens of the knowledge text           X  triples of an item that the model sees
    N  regions or patches of a picture        R  N + 1, the global region first
    F  numbers per region as they come in     C  region classes; c  classes kept per region
    D  width of the text side                 Dv width of the image side
    V  vocabulary                             M  masked tokens of a title at most
    L  tokens of one candidate                J  1 + negative values: the candidates of an item,
    O  other items per item as negatives         the true triple first
    H  attention heads                        G  rows of a group (see `settings.Objectives`)

Presence is told by the masks alone: a title is absent where `title_content` is empty, a picture
where `region_mask` is, knowledge where `triple_mask` is. Spans are [start, end) token positions.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from k3m_jax.settings import Settings, Task

Batch = Mapping[str, np.ndarray]

# What a product is; the rest of a batch hides parts of it and asks for them.
PRODUCT_ARRAYS = (
    "title_tokens",
    "title_mask",
    "title_content",
    "region_inputs",
    "region_boxes",
    "region_mask",
    "knowledge_tokens",
    "knowledge_mask",
    "property_spans",
    "value_spans",
    "triple_mask",
)

# The parts of a pretraining batch by preset; what is asked of a model follows from these.
BATCH_GROUPS = {
    "paper": ("text", "picture", "triples", "links"),
    "release": ("text", "picture", "triples", "values"),
    "bert": ("text",),
    "vilbert": ("text", "picture"),
    "vlbert": ("text", "picture"),
    "lxmert": ("text", "picture"),
}

i32, f32, flag = np.dtype(np.int32), np.dtype(np.float32), np.dtype(bool)


def batch_groups(settings: Settings) -> list[str]:
    """The parts of a batch of the run's preset and task."""
    parts = list(BATCH_GROUPS[settings.model.preset])
    if settings.task.downstream:
        parts.append("label")
    if settings.task.name == "questions" and "links" not in parts:
        parts.append("links")  # the candidates of a question
    return parts


def max_masked_tokens(settings: Settings) -> int:
    """M: how many tokens of a text can be asked for."""
    return max(1, math.ceil(settings.text_length * settings.objectives.mlm.rate))


def batch_spec(settings: Settings, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array of a training batch of `rows` items.

    Evaluation adds `link_target [B]`, the id of the true (property, value) pair in the data set's
    table of values (-1: nothing asked), and `link_known [B, …]`, the ids of all values of the asked
    property that are true of the item (-1 pads).
    """
    s = settings
    B, T, K, X, N = rows, s.text_length, s.lengths.knowledge, s.lengths.triples, s.image.regions
    F, c, M = s.image.input_dim, s.image.top_classes, max_masked_tokens(s)
    L, O = s.lengths.candidate, s.objectives.lpm.negative_items
    J = 1 + s.objectives.lpm.negative_values
    region = np.dtype(np.uint8 if s.image.front_end == "patches" else np.float16)
    arrays = {
        # [CLS] title [SEP], the masked tokens already replaced; with `knowledge_text`
        # [CLS] title [SEP] property value property value … [SEP].
        "text": {
            "title_tokens": ((B, T), i32),
            "title_mask": ((B, T), flag),  # valid, special tokens included
            "title_content": ((B, T), flag),  # valid and not special
            "mlm_positions": ((B, M), i32),
            "mlm_targets": ((B, M), i32),
            "mlm_weights": ((B, M), f32),  # 1 where a token is asked for
        },
        # The true regions; the model replaces those of `region_hidden` before it looks.
        "picture": {
            "region_inputs": ((B, N, F), region),  # pixels 0..255, or a detector's features
            "region_boxes": ((B, N + 1, 5), f32),  # x1, y1, x2, y2, area: shares; row 0 (0,0,1,1,1)
            "region_mask": ((B, N + 1), flag),
            "region_hidden": ((B, N), flag),
            "mom_weights": ((B, N), f32),  # 1 where a region's class is asked for
            "class_ids": ((B, N, c), i32),  # the detector's or codebook's most probable classes …
            "class_probs": ((B, N, c), f32),  # … and their probabilities, summing to 1
        },
        # [CLS] property value property value … [SEP], the asked triple taken out.
        # `release`: [CLS] property : value ; property : value ; … [SEP], nothing taken out.
        "triples": {
            "knowledge_tokens": ((B, K), i32),
            "knowledge_mask": ((B, K), flag),
            "property_spans": ((B, X, 2), i32),
            "value_spans": ((B, X, 2), i32),
            "triple_mask": ((B, X), flag),
        },
        # The values of all triples but the first are [MASK].
        "values": {
            "value_targets": ((B, K), i32),
            "value_weights": ((B, K), f32),  # 1 where a token is asked for
            "pair_weights": ((B,), f32),  # 1 where triples stand and the next row is a product
            "mismatched": ((B,), flag),  # a stream that is another product's; here none ever is
        },
        # Of the example that begins with the row: a class, or 1 where a pair is one product.
        "label": {
            "label": ((B,), i32),
            "label_weights": ((B,), f32),  # 1 where something is asked
        },
        # Link prediction: [CLS] property value [SEP] of the asked triple and of false ones.
        "links": {
            "link_tokens": ((B, J, L), i32),
            "link_mask": ((B, J, L), flag),
            "link_property_spans": ((B, J, 2), i32),
            "link_value_spans": ((B, J, 2), i32),
            "link_value_weights": ((B, J - 1), f32),  # 1 where that false value may be used
            "link_items": ((B, O), i32),  # rows of the item's own group, products without the value
            "link_item_weights": ((B, O), f32),
        },
    }
    return {name: shape for part in batch_groups(s) for name, shape in arrays[part].items()}


def random_batch(settings: Settings, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A valid batch of noise, for initialisation, benchmarks and tests; every weight is in use."""
    rng = np.random.default_rng(seed)
    s, G = settings, settings.objectives.group
    batch = {k: np.zeros(shape, dtype) for k, (shape, dtype) in batch_spec(s, rows).items()}
    T, K, X, L = s.text_length, s.lengths.knowledge, s.lengths.triples, s.lengths.candidate
    tokens = ("title_tokens", "knowledge_tokens", "link_tokens", "mlm_targets", "value_targets")
    for name in filter(batch.__contains__, tokens):
        batch[name] = rng.integers(0, s.model.vocabulary, batch[name].shape).astype(np.int32)
    for name in filter(batch.__contains__, ("title_mask", "region_mask", "knowledge_mask")):
        batch[name][:] = True
    batch["title_content"][:, 1 : T - 1] = True
    M = batch["mlm_positions"].shape[1]
    batch["mlm_positions"][:] = 1 + np.arange(M) % (T - 2)
    batch["mlm_weights"][:] = 1
    if "region_inputs" in batch:
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
        if G > 1:
            others = batch["link_items"].shape[1]
            batch["link_items"][:] = (np.arange(rows)[:, None] + 1 + np.arange(others)) % G
            batch["link_item_weights"][:] = 1
    return batch


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
    asked = rng.random(batch["mom_weights"].shape) < settings.objectives.mom.rate
    asked[:, 0] = True
    batch["mom_weights"][:] = asked
    batch["region_hidden"][:] = asked
    batch["class_ids"][:] = rng.integers(0, settings.image.classes, batch["class_ids"].shape)
    batch["class_probs"][:] = rng.dirichlet(np.ones(settings.image.top_classes), asked.shape)


def inference_settings(chosen: Settings) -> Settings:
    """Settings of batches that ask nothing, in groups of one row, so that any number will do."""
    asked = chosen.objectives
    return dataclasses.replace(
        chosen,
        objectives=dataclasses.replace(
            asked,
            mlm=dataclasses.replace(asked.mlm, rate=0.0),
            mom=dataclasses.replace(asked.mom, rate=0.0),
            lpm=dataclasses.replace(asked.lpm, negative_values=0, negative_items=0),
            mvm=dataclasses.replace(asked.mvm, weight=0.0),
            group=1,
        ),
        task=Task(),
    )
