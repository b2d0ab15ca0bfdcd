"""The measurement of a downstream task as a table: for a terminal, as Markdown, as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Self

from etils import epath

from k3m_jax.evaluation.report import ExternalDataInfo, aligned, markdown_table
from k3m_jax.metrics.bootstrap import Resampling, Statistic

ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Score:
    """A share between 0 and 1; None where it is not defined."""

    value: float | None
    interval: tuple[float, float] | None  # 95 %, over products

    @classmethod
    def of(cls, sampling: Resampling, statistic: Statistic) -> Self:
        """Of what was sampled."""
        value = sampling.value(statistic)
        return cls(value if math.isfinite(value) else None, sampling.interval(statistic))

    def __str__(self) -> str:
        if self.value is None:
            return ABSENT
        told = f"{100 * self.value:.1f} %"
        if self.interval is None or self.interval[0] == self.interval[1]:
            return told
        low, high = self.interval
        return f"{told} ({100 * low:.1f} to {100 * high:.1f})"


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of the model, and of the floors by their names."""

    metric: str
    model: Score
    floors: Mapping[str, Score]

    @classmethod
    def of(
        cls,
        metric: str,
        sampling: Resampling,
        model: Statistic,
        floors: Mapping[str, Statistic],
    ) -> Self:
        """Of a statistic of the model and those of the floors."""
        others = {name: Score.of(sampling, each) for name, each in floors.items()}
        return cls(metric, Score.of(sampling, model), others)

    @classmethod
    def of_json(cls, metric: str, content: Mapping[str, Any]) -> Self:
        """What `json` gave."""
        floors = {name: Score(**each) for name, each in content["floors"].items()}
        return cls(metric, Score(content["value"], content["interval"]), floors)

    def json(self) -> dict[str, Any]:
        """Unrounded."""
        floors = {name: dataclasses.asdict(each) for name, each in self.floors.items()}
        return {**dataclasses.asdict(self.model), "floors": floors}


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
    known_products: int  # of these, how many the training split has items of, too
    notes: Mapping[str, Any]  # how it was measured
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of items, by reason
    unknown_classes: int = 0  # examples of a class that training has not: always wrong
    elsewhere: ExternalDataInfo | None = None  # where the products are not the run's own

    @property
    def name(self) -> str:
        """What the report's files are called: probe-questions-test-TNR80."""
        digest = self.elsewhere and self.elsewhere.digest
        return "-".join(filter(None, (self.kind, self.task, self.split, self.corruption, digest)))

    @property
    def title(self) -> str:
        """What was measured, in words."""
        how = {"probe": "a head on embeddings of", "evaluation": "fine-tuned,"}[self.kind]
        corrupt = f", {self.corruption}" if self.corruption else ""
        return f"{self.task.capitalize()}: {how} step {self.checkpoint}, {self.split}{corrupt}"

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Self:
        """What `json` gave."""
        fields = dict(content)
        rows = fields.pop("metrics").items()
        elsewhere = ExternalDataInfo.of_json(fields.pop("elsewhere", None))
        return cls(rows=tuple(Row.of_json(*row) for row in rows), elsewhere=elsewhere, **fields)

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
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows, elsewhere = told.pop("rows"), told.pop("elsewhere")
        metrics = {row.metric: row.json() for row in rows}
        return {**told, "elsewhere": elsewhere and elsewhere.json(), "metrics": metrics}

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
        scores = ((row.metric, row.model, *row.floors.values()) for row in self.rows)
        header = ("metric", "model", *self.rows[0].floors)
        return [header, *(tuple(map(str, each)) for each in scores)]

    def _told(self) -> str:
        told = (
            f"{self.examples:,} examples of {self.products:,} products, {self.known_products:,} of "
            "which training has items of, too. Brackets: 95 % intervals, bootstrap over products."
        )
        sentences = [told, *(f"{name}: {value}." for name, value in self.notes.items())]
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            sentences.append(f"Left out: {reasons}.")
        if self.unknown_classes:
            count = self.unknown_classes
            sentences.append(f"Of a class that training has not, so wrong: {count:,}.")
        if self.elsewhere:
            sentences.append(str(self.elsewhere))
        return " ".join(sentences)
