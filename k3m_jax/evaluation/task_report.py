"""The measurement of a downstream task as a table: for a terminal, as Markdown, as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from k3m_jax.evaluation.bootstrap import Resampling, Statistic
from k3m_jax.evaluation.report import aligned, markdown_table

ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric, a share between 0 and 1; None where it is not defined."""

    metric: str
    value: float | None
    interval: tuple[float, float] | None  # 95 %, over products
    floors: Mapping[str, float | None]

    @classmethod
    def of(
        cls,
        metric: str,
        sampling: Resampling,
        model: Statistic,
        floors: Mapping[str, Statistic],
    ) -> "Row":
        """Of a statistic of the model and those of the floors."""
        others = {name: _defined(sampling.value(each)) for name, each in floors.items()}
        return cls(metric, _defined(sampling.value(model)), sampling.interval(model), others)

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        spread = " to ".join(map(_percent, self.interval)) if self.interval else ABSENT
        return self.metric, _percent(self.value), spread, *map(_percent, self.floors.values())


@dataclasses.dataclass(frozen=True)
class TaskReport:
    """What was measured, by which model on which products."""

    kind: str  # probe: a head on frozen embeddings; evaluation: a fine-tuned run
    task: str
    split: str
    corruption: str  # of the split's items, as `settings.Corruption` writes it; "" is none
    checkpoint: int  # step
    rows: tuple[Row, ...]
    examples: int
    products: int
    known_products: int  # of these, how many training has, too
    notes: Mapping[str, Any]  # how it was measured

    @property
    def name(self) -> str:
        """What the report's files are called: probe-questions-test-TNR80."""
        return "-".join(filter(None, (self.kind, self.task, self.split, self.corruption)))

    @property
    def title(self) -> str:
        """What was measured, in words."""
        how = {"probe": "a head on embeddings of", "evaluation": "fine-tuned,"}[self.kind]
        spoilt = f", {self.corruption}" if self.corruption else ""
        return f"{self.task.capitalize()}: {how} step {self.checkpoint}, {self.split}{spoilt}"

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "TaskReport":
        """What `json` gave."""
        fields = dict(content)
        rows = fields.pop("metrics").items()
        return cls(rows=tuple(Row(metric, **row) for metric, row in rows), **fields)

    def text(self) -> str:
        """Aligned columns, with the notes below."""
        return "\n".join([f"{self.title}:", "", *aligned(self._cells()), "", self._told()])

    def markdown(self) -> str:
        """The same as a Markdown table."""
        return f"# {self.title}\n\n{self.table()}\n"

    def table(self) -> str:
        """The Markdown table and its notes, without a title."""
        return "\n".join([*markdown_table(self._cells()), "", self._told()])

    def json(self) -> dict[str, Any]:
        """The same unrounded."""
        content = dataclasses.asdict(self)
        rows = {row.pop("metric"): row for row in content.pop("rows")}
        return {**content, "metrics": rows}

    def write(self, folder: epath.Path) -> list[str]:
        """Writes `name`.json and .md into the folder; returns what they are called."""
        texts = {
            f"{self.name}.json": json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n",
            f"{self.name}.md": self.markdown(),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return list(texts)

    def _cells(self) -> list[tuple[str, ...]]:
        floors = tuple(self.rows[0].floors)
        return [("metric", "model", "95 % interval", *floors), *(row.cells() for row in self.rows)]

    def _told(self) -> str:
        told = (
            f"{self.examples:,} examples of {self.products:,} products, {self.known_products:,} of "
            "which training has items of, too. Intervals: bootstrap over products."
        )
        return " ".join([told, *(f"{name}: {value}." for name, value in self.notes.items())])


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f} %"


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
