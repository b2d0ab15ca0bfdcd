"""Assembles a report and writes it as Markdown, JSON, figures and an HTML page."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from k3m_jax.settings import UserError
from k3m_jax.sweeps.grid import PRETRAINING
from k3m_jax.sweeps.report import attention, comparisons, figures, naming, tables
from k3m_jax.sweeps.report.document import Block, Section, Table
from k3m_jax.sweeps.report.rendering import render_html, render_markdown
from k3m_jax.sweeps.report.scores import MetricView, Scores, read_scores
from k3m_jax.sweeps.results import RESULTS

FIGURES = "figures"


class Written(NamedTuple):
    """What `write_report` wrote."""

    files: list[pathlib.Path]
    progress: str  # how much of the grid is measured


def write_report(workdir: pathlib.Path, output: pathlib.Path, split: str) -> Written:
    """Writes index.html, report.md, report.json and figures/.

    Args:
      workdir: of the grid.
      output: folder to write into, created if necessary.
      split: whose products the attention figure shows.

    Raises:
      UserError: see `read_scores`.
    """
    scores = read_scores(workdir / RESULTS)
    output.mkdir(parents=True, exist_ok=True)
    data = list(dict.fromkeys(condition.data for condition in scores.conditions))
    counts = {level: tables.coverage(scores, level) for level in data}
    progress = _progress(
        scores, sum(c[1] for c in counts.values()), sum(c[2] for c in counts.values())
    )
    report = Section(
        "K3M against its baselines",
        (
            progress,
            Section("Summary", (comparisons.summary(scores, data), *_READING)),
            *(
                Section(level, tuple(_level(scores, level, counts[level][0], output / FIGURES)))
                for level in data
            ),
            Section("The paper's own numbers", (f"{tables.CITATION}.", *tables.paper_tables())),
            Section(
                "Attention over triples",
                (_attention(workdir, split, output / FIGURES / "attention"),),
            ),
        ),
    )
    texts = {
        "index.html": render_html(report),
        "report.md": render_markdown(report, output),
        "report.json": json.dumps(as_json(scores, report, progress), indent=1, ensure_ascii=False),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    drawn = sorted((output / FIGURES).glob("*"))
    return Written([*(output / name for name in texts), *drawn], progress)


def as_json(scores: Scores, report: Section, progress: str) -> dict[str, Any]:
    """All scores and all tables, unrounded."""
    found = [
        {**condition._asdict(), "metric": metric, **score.json()}
        for condition in scores.conditions
        for metric in scores.metrics(condition)
        if (score := scores.score(condition, metric))
    ]
    return {"progress": progress, "scores": found, "tables": [t.json() for t in report.tables()]}


_READING = (
    "Numbers are per cent, mean ± standard deviation over seeds; a cell with fewer seeds than "
    "others of its table shows how many (n). A single seed has its 95 % interval over products "
    "instead of a spread; a difference of a single seed has neither, and shows n=1. K3M's row is "
    "highlighted, and so is the best baseline with all inputs of K3M (+PKG, with pictures) in each "
    "column; – means not measured or not defined. Trivial baselines use no model: the majority, "
    "naive Bayes on the title's words, the nearest picture.",
    "TMR, IMR, MMR: the title, the picture, one of both is missing. TNR, INR, TINR, MNR: the "
    "title, the picture, both, one or both are another product's. KMR, KNR: the triples are "
    "missing, another product's. The number that follows is the percentage of corrupt items.",
)


def _level(scores: Scores, data: str, counts: Table, folder: pathlib.Path) -> Iterator[Section]:
    """Sections for each task, for ablations, corruption in training, cost and coverage."""
    for task in comparisons.tasks(scores, data):
        yield Section(task.capitalize(), tuple(_task(scores, data, task, folder)))
    if found := comparisons.ablations(scores, data):
        yield Section("Ablations", (figures.draw_ablations(found[1], folder), *found))
    if found := comparisons.corrupted_training(scores, data):
        yield Section("Corruption in training too", tuple(found))
    yield Section("Cost", (tables.cost(scores, data),))
    note = (
        "Inferred from the results: models of a kind are measured under the same corruptions, with "
        "the same seeds. A model, task or seed without any result is not counted."
    )
    yield Section("How much of the grid is measured", (counts, note), folded=True)


def _task(scores: Scores, data: str, task: str, folder: pathlib.Path) -> Iterator[Block]:
    metrics = comparisons.metrics(scores, data, task)
    shown = [m for m in metrics if m in naming.SHOWN] or metrics[:1]
    views = {metric: MetricView(scores, data, task, metric) for metric in metrics}
    for metric in shown:
        yield comparisons.comparison(views[metric])
        if drawn := figures.draw_rate_curves(views[metric], folder):
            yield drawn
    if rest := [view for metric, view in views.items() if metric not in shown]:
        further = tuple(map(comparisons.comparison, rest))
        yield Section(f"Further metrics of {task}", further, folded=True)


def _attention(workdir: pathlib.Path, split: str, path: pathlib.Path) -> Block:
    """A figure of the first usable run, or the reason why there is none."""
    reason = "no pretrained K3M of the grid is next to its results"
    for run in sorted((workdir / "runs").glob(f"*/{naming.OURS}/*/{PRETRAINING}")):
        try:
            items = attention.read_attention(run, split)
        except UserError as error:
            reason = str(error)
        else:
            source = f"From the run {run.relative_to(workdir)}, products of the split {split}."
            return attention.draw_attention(items, path, source)
    return f"Left out: {reason}."


def _progress(scores: Scores, measured: int, expected: int) -> str:
    seeds = {seed for condition in scores.conditions for seed in scores.seeds(condition)}
    share = f"All {expected:,}" if measured == expected else f"{measured:,} of {expected:,}"
    text = f"{share} expected trials are measured, with {len(seeds)} seed{'s' * (len(seeds) > 1)}."
    if scores.truncated:
        text += f" Truncated lines of the results, left out: {scores.truncated}."
    return text
