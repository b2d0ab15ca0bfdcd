"""Stability as a report: a line for each setting, a table for the model and one for each floor."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from k3m_jax.evaluation.report import ABSENT, Report, Row, Score
from k3m_jax.evaluation.stability import CLEAN, KS, SETTINGS, Metrics, Sample
from k3m_jax.metrics import wilson_interval
from k3m_jax.objectives.base import Sum

MODEL = "model"
COLUMNS = {
    **{f"recall_at_{k}": f"own vector, Recall@{k}" for k in KS},
    "cosine": "mean cosine",
    **{f"product_recall_at_{k}": f"other item of its product, Recall@{k}" for k in KS},
}
NOTES = {
    "own vector": "whether the complete vector of the item is among the K nearest, by cosine",
    "other item of its product": "the item itself left out; items without another one left out",
    "intervals": "Wilson's; items count as wholes",
}


@dataclasses.dataclass(frozen=True)
class StabilityReport(Report):
    """The rows are metrics by setting, as `stability.measure` names them."""

    @property
    def _title(self) -> str:
        return f"Stability at step {self.checkpoint} on the split {self.split}"

    def _body(self, table: Callable[..., list[str]], bullet: str) -> str:
        rows, lines = {row.metric: row for row in self.rows}, []
        for name in (MODEL, *self.rows[0].baselines):
            lines += [f"{name}:", "", *table(_cells(rows, name)), ""]
        return "\n".join([*lines, *self._notes(bullet)])


def stability_report(
    metrics: Metrics, floors: Mapping[str, Metrics], sample: Sample, split: str, checkpoint: int
) -> StabilityReport:
    """Of a model and of floors, whose metrics are of the same items."""
    rows = []
    for name, metric in metrics.items():
        setting, _, column = name.partition("_")
        label = f"{_spoken(setting)}: {COLUMNS[column]}"
        others = {floor: _score(found[name], column) for floor, found in floors.items()}
        count = round(metric.weight.sum())
        rows.append(Row(name, label, _score(metric, column), others, count, "items"))
    left_out = {
        f"left out, {SETTINGS[setting]}": f"{len(sample) - len(kept):,} items: nothing changes, "
        "or nothing is left"
        for setting, kept in sample.kept.items()
        if len(kept) < len(sample)
    }
    notes = {"items": len(sample), **NOTES, **left_out}
    return StabilityReport("stability", "pretraining", split, "", checkpoint, rows, notes)


def _score(metric: Sum, column: str) -> Score:
    if not metric.weight.any():
        return Score(None)
    mean = float(metric.total.sum() / metric.weight.sum())
    bounded = column != "cosine" and np.isfinite(mean)
    return Score(mean, wilson_interval(*metric) if bounded else None)


def _spoken(setting: str) -> str:
    return "complete" if setting == CLEAN else SETTINGS[setting.removesuffix("100")]


def _cells(rows: Mapping[str, Row], name: str) -> list[tuple[str, ...]]:
    """The table of the model, or of a floor."""
    cells: list[tuple[Any, ...]] = [("vector of the item with", *COLUMNS.values(), "items")]
    for setting in dict.fromkeys(metric.partition("_")[0] for metric in rows):
        line, count = [], 0
        for column in COLUMNS:
            row = rows.get(f"{setting}_{column}")
            if row is None:
                line.append(ABSENT)
                continue
            score = row.model if name == MODEL else row.baselines[name]
            if not column.endswith("at_1"):  # the table is wide enough
                score = Score(score.value)
            line.append(score.text(is_rate=column != "cosine"))
            count = max(count, row.targets)
        cells.append((_spoken(setting), *line, f"{count:,}"))
    return cells
