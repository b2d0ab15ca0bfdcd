"""A measurement as a table: for a terminal, as Markdown, as JSON."""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from k3m_jax.data.store.shards import ShardSet

ABSENT = "–"


@dataclasses.dataclass(frozen=True)
class Score:
    """The value of a metric; None where it is not defined, NaN of a model that has diverged."""

    value: float | None
    interval: tuple[float, float] | None = None  # 95 %

    def text(self, *, is_rate: bool) -> str:
        """With its interval in brackets."""
        if self.value is None:
            return ABSENT
        if not is_rate:
            return f"{self.value:.3f}"
        text = f"{100 * self.value:.1f} %"
        if self.interval is None or self.interval[0] == self.interval[1]:
            return text
        low, high = self.interval
        return f"{text} ({100 * low:.1f} to {100 * high:.1f})"


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of the model, and of the baselines by their names."""

    metric: str
    label: str
    model: Score
    baselines: Mapping[str, Score]
    targets: int
    unit: str  # of the targets, in the plural
    is_rate: bool = True  # a share between 0 and 1; False is a loss


@dataclasses.dataclass(frozen=True)
class ExternalDataInfo:
    """Products that are not the run's own; reports on other products have other names."""

    sources: tuple[str, ...]  # as they were named
    digest: str  # of their contents; part of the files' names
    # Of all their splits, as `shards.BuildInfo` has them.
    items: int = 0
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    repaired: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rejects: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, sources: Sequence[str], opened: Sequence[ShardSet]) -> "ExternalDataInfo | None":
        """Of the data sets that `sources` were opened as; None where no source is named."""
        if not sources:
            return None
        contents = "\n".join(shards.contents for shards in opened).encode()
        digest = hashlib.blake2b(contents, digest_size=4).hexdigest()
        items, *counts = (  # the sum of counters leaves out what is 0
            dict(sum((Counter(getattr(shards.info, name)) for shards in opened), Counter()))
            for name in ("products", "missing", "repaired", "rejects")
        )
        return cls(tuple(sources), digest, sum(items.values()), *counts)

    def __str__(self) -> str:
        parts = [f"{', '.join(self.sources)}, {self.items:,} items in all splits"]
        for name in ("missing", "repaired", "rejects"):
            if counts := getattr(self, name):
                kinds = (f"{count:,} {kind}" for kind, count in counts.items())
                parts.append(f"{name}: {', '.join(kinds)}")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured, on which parameters and which products."""

    kind: str  # evaluation: a run; probe: a head on its frozen embeddings; stability: its vectors
    task: str  # or the name of a probe
    split: str
    corruption: str  # of the split's items, as `settings.Corruption` writes it; "" is none
    checkpoint: int  # step
    rows: Sequence[Row]
    notes: Mapping[str, Any]  # counts, and how it was measured
    external: ExternalDataInfo | None = None  # where the products are not the run's own
    # Settings of the task that are not the defaults.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the report's files: evaluation-valid, probe-questions-test-TNR80."""
        task = "" if self.task == "pretraining" else self.task
        digest = self.external and self.external.digest
        return "-".join(filter(None, (self.kind, task, self.split, self.corruption, digest)))

    def text(self) -> str:
        """Aligned columns, with the notes below."""
        return f"{self._title}:\n\n{self._body(_aligned, '')}"

    def markdown(self) -> str:
        """The same as a Markdown table."""
        return f"# {self._title}\n\n{self._body(markdown_table, '- ')}\n"

    def json(self) -> dict[str, Any]:
        """The same unrounded."""
        fields = dataclasses.asdict(self, dict_factory=_strict)
        rows = fields.pop("rows")
        return fields | {"metrics": {row.pop("metric"): row.pop("model") | row for row in rows}}

    def write(self, folder: epath.Path) -> list[str]:
        """Writes `name`.json and .md into the folder; returns their names."""
        content = json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False)
        texts = {f"{self.name}.json": f"{content}\n", f"{self.name}.md": self.markdown()}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return list(texts)

    @property
    def _title(self) -> str:
        kind = ", a head on embeddings," if self.kind == "probe" else ""
        corruption = f", {self.corruption}" if self.corruption else ""
        task = self.task.capitalize()
        return f"{task}{kind} at step {self.checkpoint} on the split {self.split}{corruption}"

    def _body(self, table: Callable[..., list[str]], bullet: str) -> str:
        cells = [("metric", "model (95 % interval)", *self.rows[0].baselines, "targets")]
        for row in self.rows:
            scores = row.model, *row.baselines.values()
            shown = (score.text(is_rate=row.is_rate) for score in scores)
            cells.append((row.label, *shown, f"{row.targets:,} {row.unit}"))
        return "\n".join([*table(cells), "", *self._notes(bullet)])

    def _notes(self, bullet: str) -> list[str]:
        external = str(self.external) if self.external else ""
        external = markdown_text(external) if bullet else external  # folders may be called anything
        notes = {**self.notes, **({"measured on": external} if external else {})}
        return [
            f"{bullet}{name}: {f'{value:,}' if isinstance(value, int) else value}"
            for name, value in notes.items()
        ]


def markdown_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, its header first: names left, numbers right."""
    rule = ("---", *["---:"] * (len(cells[0]) - 1))
    lines = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in cells)
    first, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return [first, f"| {' | '.join(rule)} |", *rows]


def markdown_text(text: str) -> str:
    """A text that others chose, such as a folder's name, as plain text of one line in Markdown."""
    return re.sub(r"([\\|`*_<>\[\]#])", r"\\\1", " ".join(text.split()))


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The same table in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    formats = [f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths)]
    first, *rows = ("  ".join(formats).format(*line) for line in cells)
    return [first, "  ".join("-" * width for width in widths), *rows]


def _strict(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For strict JSON, which has no NaN: it becomes a string."""
    return {k: str(x) if isinstance(x, float) and not math.isfinite(x) else x for k, x in fields}
