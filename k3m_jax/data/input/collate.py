"""Examples to the arrays of one batch, as `batch.batch_spec` describes them."""

from collections.abc import Iterable, Sequence

import numpy as np

from k3m_jax.data.input.batch import batch_spec
from k3m_jax.data.input.examples import PretrainingExample
from k3m_jax.data.store import value_vocabulary
from k3m_jax.settings import Settings


def collate(
    examples: Sequence[PretrainingExample | None],
    settings: Settings,
    groups: Iterable[int],
    seed: int,
) -> dict[str, np.ndarray]:
    """Pads examples into a batch.

    Nothing here depends on which rows of a global batch these are but `groups`, so that hosts
    that hold a part each make together what one host would make alone.

    Args:
      examples: whole groups of rows; None is a row of padding: absent in everything, weights 0.
      settings: sizes.
      groups: the number of each group, counted over the whole run.
      seed: that other items are drawn by, with the number of their group.
    """
    arrays = {
        name: np.zeros(shape, dtype)
        for name, (shape, dtype) in batch_spec(settings, len(examples)).items()
    }
    if "region_boxes" in arrays:
        arrays["region_boxes"][:, 0] = (0, 0, 1, 1, 1)
    for row, example in enumerate(examples):
        if example is not None:
            batch = {name: array[row] for name, array in arrays.items()}
            _write_title(batch, example)
            if "region_mask" in arrays:
                _write_regions(batch, example, settings.objectives.mom.variant == "kl")
            if "triple_mask" in arrays:
                _write_knowledge(batch, example)
            if "value_targets" in arrays:
                _write_values(batch, example)
            if "link_tokens" in arrays:
                _write_links(batch, example)
    if "label" in arrays:
        _write_labels(arrays, examples)
    if "pair_weights" in arrays:
        arrays["pair_weights"][:] = _pairs(examples, settings.objectives.group)
    if "link_items" in arrays:
        _write_other_items(arrays, examples, settings, groups, seed)
    return arrays


def link_answers(examples: Sequence[PretrainingExample | None]) -> dict[str, np.ndarray]:
    """What evaluation needs to rank: `link_target` [B] and `link_known` [B, …], see `batch_spec`.

    The width of `link_known` is this batch's own: it is for the host, not for a compiled function.
    """
    questions = [example.question if example else None for example in examples]
    width = max((len(q.known) for q in questions if q), default=0)
    target = np.full(len(examples), value_vocabulary.UNKNOWN, np.int32)
    known = np.full((len(examples), width), value_vocabulary.UNKNOWN, np.int32)
    for row, question in enumerate(questions):
        if question:
            target[row] = question.target
            known[row, : len(question.known)] = question.known
    return {"link_target": target, "link_known": known}


def _write_title(row: dict[str, np.ndarray], example: PretrainingExample) -> None:
    t, m = len(example.title), len(example.mlm_positions)
    row["title_tokens"][:t] = example.title
    row["title_mask"][:t] = True
    row["title_content"][:t] = example.title_content
    row["mlm_positions"][:m] = example.mlm_positions
    row["mlm_targets"][:m] = example.mlm_targets
    row["mlm_weights"][:m] = 1


def _write_regions(
    row: dict[str, np.ndarray], example: PretrainingExample, needs_classes: bool
) -> None:
    regions = example.regions
    if regions is None:
        return
    n, c = regions.class_ids.shape
    row["region_inputs"][:n] = regions.inputs
    row["region_boxes"][1 : n + 1, :4] = regions.boxes
    row["region_boxes"][1 : n + 1, 4] = (regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(-1)
    row["region_mask"][: n + 1] = True
    row["region_hidden"][:n] = example.region_hidden
    row["class_ids"][:n, :c] = regions.class_ids
    row["class_probs"][:n, :c] = regions.class_probs
    known = regions.class_probs.any(1) if needs_classes else True
    row["mom_weights"][:n] = example.region_asked & known


def _write_knowledge(row: dict[str, np.ndarray], example: PretrainingExample) -> None:
    text = example.knowledge
    k, x = len(text.tokens), len(text.value_spans)
    if x:
        row["knowledge_tokens"][:k] = text.tokens
        row["knowledge_mask"][:k] = True
        row["property_spans"][:x] = text.property_spans
        row["value_spans"][:x] = text.value_spans
        row["triple_mask"][:x] = True


def _write_values(row: dict[str, np.ndarray], example: PretrainingExample) -> None:
    positions = list(example.value_positions)
    row["value_targets"][positions] = example.value_targets
    row["value_weights"][positions] = 1


def _pairs(examples: Sequence[PretrainingExample | None], group: int) -> list[bool]:
    """Rows with triples whose next row, in the circle of their group, is another product."""
    starts = [row - row % group for row in range(len(examples))]
    following = [start + (row + 1 - start) % group for row, start in enumerate(starts)]
    return [
        bool(example and example.knowledge.value_spans and examples[other] and other != row)
        for row, (example, other) in enumerate(zip(examples, following, strict=True))
    ]


def _write_links(row: dict[str, np.ndarray], example: PretrainingExample) -> None:
    texts = example.candidates
    if texts is not None:
        j = len(texts.tokens)
        # Candidates that several rows share are written, and encoded, once for each: shapes are
        # static, so that finding the distinct ones could not save the device any work.
        row["link_tokens"][:j] = texts.tokens
        row["link_mask"][:j] = texts.mask
        row["link_property_spans"][:j] = texts.property_spans
        row["link_value_spans"][:j] = texts.value_spans
        row["link_value_weights"][: j - 1] = 1


def _write_labels(
    arrays: dict[str, np.ndarray], examples: Sequence[PretrainingExample | None]
) -> None:
    for row, example in enumerate(examples):
        if example is None or example.record["label"] == value_vocabulary.UNKNOWN:
            continue
        texts = example.candidates
        if texts is None or len(texts.tokens) > 1:  # a question needs something to choose from
            arrays["label"][row] = example.record["label"]
            arrays["label_weights"][row] = 1


def _write_other_items(
    arrays: dict[str, np.ndarray],
    examples: Sequence[PretrainingExample | None],
    settings: Settings,
    groups: Iterable[int],
    seed: int,
) -> None:
    """Item negatives need the group, so they are drawn here, by the group's number."""
    G, O = settings.objectives.group, settings.objectives.lpm.negative_items
    for start, number in zip(range(0, len(examples), G), groups, strict=False):
        group = examples[start : start + G]
        others = value_vocabulary.sample_other_items(
            [e.question.target if e and e.question else value_vocabulary.UNKNOWN for e in group],
            [e.facts if e else None for e in group],
            [e.record["product"] if e else "" for e in group],
            O,
            np.random.default_rng((seed, number)),
        )
        for row, rows in enumerate(others, start):
            arrays["link_items"][row, : len(rows)] = rows
            arrays["link_item_weights"][row, : len(rows)] = 1
