"""A measurement as a table: for a terminal, as Markdown, as JSON."""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from k3m_jax import settings
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.evaluation.evaluator import EvalResult
from k3m_jax.metrics.ranking import interval

# Order and names of the table's rows, and what one question is.
RATES = {
    "mlm_accuracy": ("MLM accuracy", "tokens"),
    "mom_top1": ("MOM top-1", "regions"),
    "link_hits_at_1": ("link Hits@1", "links"),
    "link_hits_at_10": ("link Hits@10", "links"),
    "link_mrr": ("link MRR", "links"),
    "mvm_accuracy": ("MVM accuracy", "tokens"),
    "structure_accuracy": ("structure accuracy", "pairs"),
}
LOSSES = {
    "mlm_loss": ("MLM loss", "tokens"),
    "mom_loss": ("MOM loss", "regions"),
    "lpm_loss": ("LPM loss", "pairs"),
    "mvm_loss": ("MVM loss", "tokens"),
    "structure_loss": ("structure loss", "pairs"),
}
HEADER = ("metric", "model", "95 % interval", "floor", "questions")
ABSENT = "–"


def metrics_of(tasks: Container[str]) -> list[str]:
    """Those that a report of some tasks has, in its order; they begin with their task's name."""
    prefixes = {metric: metric.split("_")[0] for metric in RATES | LOSSES}
    prefixes |= {metric: "lpm" for metric, prefix in prefixes.items() if prefix == "link"}
    return [metric for metric, prefix in prefixes.items() if prefix in tasks]


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric; all but its name is None where nothing was asked for."""

    metric: str
    value: float | None = None
    interval: tuple[float, float] | None = None  # of rates; by item, see `metrics.interval`
    floor: float | None = None
    questions: int | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `HEADER`."""
        name, unit = (RATES | LOSSES)[self.metric]
        if self.questions is None:
            return name, ABSENT, ABSENT, ABSENT, f"0 {unit}"
        shown = _percent if self.metric in RATES else _number
        spread = " to ".join(map(shown, self.interval)) if self.interval else ABSENT
        return name, shown(self.value), spread, shown(self.floor), f"{self.questions:,} {unit}"


class ExternalDataInfo(NamedTuple):
    """Products that a run did not bring: the same split of others must not overwrite its report."""

    sources: tuple[str, ...]  # as they were named
    digest: str  # of what they hold; part of the files' names
    # Of all their splits, as `shards.BuildInfo` has them; a report written before lacks them.
    items: int = 0
    missing: Mapping[str, int] = {}
    repaired: Mapping[str, int] = {}
    set_aside: Mapping[str, int] = {}

    @classmethod
    def of(cls, sources: Sequence[str], opened: Sequence[ShardSet]) -> "ExternalDataInfo | None":
        """Of the data sets that `sources` were opened as; None where no source is named."""
        if not sources:
            return None
        contents = "\n".join(shards.contents for shards in opened).encode()
        digest = hashlib.blake2b(contents, digest_size=4).hexdigest()

        def added(name: str) -> dict[str, int]:
            counts = (collections.Counter(getattr(shards.info, name)) for shards in opened)
            return dict(sum(counts, collections.Counter()))  # without what is 0

        told = (added(name) for name in ("missing", "repaired", "rejects"))
        return cls(tuple(sources), digest, sum(added("products").values()), *told)

    @classmethod
    def of_json(cls, content: Mapping[str, Any] | None) -> "ExternalDataInfo | None":
        """What `json` gave."""
        return cls(**{**content, "sources": tuple(content["sources"])}) if content else None

    def json(self) -> dict[str, Any]:
        """As an object."""
        return self._asdict()

    def __str__(self) -> str:
        told = f"Measured on {', '.join(self.sources)}."
        if self.items:
            told += f" All splits: {self.items:,} items"
        for name in ("missing", "repaired", "set_aside"):
            if counts := getattr(self, name):
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
                told += f"; {name.replace('_', ' ')}: {kinds}"
        return f"{told}." if self.items else told


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured, on which parameters and which products."""

    rows: tuple[Row, ...]
    trivial_links_skipped: int
    checkpoint: int  # step
    split: str
    corruption: str = ""  # of the split's items, as `settings.Corruption` writes it; "" is none
    elsewhere: ExternalDataInfo | None = None  # where the products are not the run's own

    @classmethod
    def of(cls, measured: EvalResult, checkpoint: int, data: settings.Data) -> "Report":
        """The table of a measurement on what `data` calls held out."""
        rows = tuple(_row(measured, metric) for metric in metrics_of(measured.weights))
        split, corruption = data.valid_split, str(data.valid_corruption)
        return cls(rows, measured.trivial_links_skipped, checkpoint, split, corruption)

    @property
    def name(self) -> str:
        """What the report's files are called: evaluation-valid, evaluation-valid-TNR80."""
        digest = self.elsewhere and self.elsewhere.digest
        return "-".join(filter(None, ("evaluation", self.split, self.corruption, digest)))

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "Report":
        """What `json` gave."""
        rows = tuple(_row_of_json(*each) for each in content["metrics"].items())
        told = (content[key] for key in ("trivial_links_skipped", "checkpoint", "split"))
        elsewhere = ExternalDataInfo.of_json(content.get("elsewhere"))
        return cls(rows, *told, content.get("corruption", ""), elsewhere)

    def write(self, folder: epath.Path) -> list[str]:
        """Writes `name`.json and .md into the folder; returns what they are called."""
        texts = {
            f"{self.name}.json": json.dumps(self.json(), indent=1) + "\n",
            f"{self.name}.md": self.markdown(),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return list(texts)

    def text(self) -> str:
        """Aligned columns, with the notes below."""
        cells = [HEADER, *(row.cells() for row in self.rows)]
        return "\n".join([f"{self.title}:", "", *aligned(cells), "", *self._notes()])

    def markdown(self) -> str:
        """The same as a Markdown table."""
        return f"# {self.title}\n\n{self.table()}\n"

    def table(self) -> str:
        """The Markdown table and its notes, without a title."""
        cells = [HEADER, *(row.cells() for row in self.rows)]
        return "\n".join([*markdown_table(cells), "", *self._notes()])

    def json(self) -> dict[str, Any]:
        """The same unrounded; what is absent or not a number is None."""
        metrics = {
            row.metric: {
                "value": _finite(row.value),
                "interval": row.interval,
                "floor": _finite(row.floor),
                "questions": row.questions or 0,
            }
            for row in self.rows
        }
        return {
            "checkpoint": self.checkpoint,
            "split": self.split,
            "corruption": self.corruption,
            "elsewhere": self.elsewhere and self.elsewhere.json(),
            "metrics": metrics,
            "trivial_links_skipped": self.trivial_links_skipped,
        }

    @property
    def title(self) -> str:
        """What was measured, in words."""
        corrupted = f", {self.corruption}" if self.corruption else ""
        return f"Step {self.checkpoint} on the split {self.split}{corrupted}"

    def _notes(self) -> list[str]:
        notes = [
            "The floor is the most frequent answer in training: per property for links, of a "
            "sample of its items for tokens and regions. An interval counts items as wholes."
        ]
        if self.elsewhere:
            notes.append(str(self.elsewhere))
        if self.trivial_links_skipped:
            notes.append(
                f"Links left out because nothing stands against the true value: "
                f"{self.trivial_links_skipped:,}."
            )
        return notes


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in columns, the header ruled off: names left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def markdown_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """The same table in Markdown."""
    rule = ("---", *["---:"] * (len(cells[0]) - 1))
    return ["| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:])]


def _row(measured: EvalResult, metric: str) -> Row:
    if metric not in measured.model:
        return Row(metric)
    answers, floor = measured.model[metric], measured.floor[metric]
    spread = None
    if metric in RATES and math.isfinite(answers.value):
        spread = interval(answers.right, answers.asked)
    return Row(metric, answers.value, spread, floor.value, round(answers.asked.sum()))


def _row_of_json(metric: str, told: Mapping[str, Any]) -> Row:
    if not told["questions"]:
        return Row(metric)
    # What was asked for and is None was no number.
    value, floor = (math.nan if told[key] is None else told[key] for key in ("value", "floor"))
    spread = tuple(told["interval"]) if told["interval"] else None
    return Row(metric, value, spread, floor, told["questions"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(loss: float) -> str:
    return f"{loss:.3f}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
