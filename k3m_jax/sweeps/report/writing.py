"""Puts a report together and writes it as Markdown, JSON, figures and a page."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from k3m_jax.settings import UserError
from k3m_jax.sweeps.grid import PRETRAINING
from k3m_jax.sweeps.report import attention, comparisons, figures, markdown, naming, page, paper
from k3m_jax.sweeps.report.comparisons import MetricView
from k3m_jax.sweeps.report.coverage import coverage
from k3m_jax.sweeps.report.document import Block, Section, Table
from k3m_jax.sweeps.report.scores import Scores, read_scores
from k3m_jax.sweeps.results import RESULTS

FIGURES = "figures"


class Written(NamedTuple):
    """What was written."""

    files: list[pathlib.Path]
    told: str  # how much of the grid there is


def write_report(workdir: pathlib.Path, output: pathlib.Path, split: str) -> Written:
    """Writes index.html, report.md, report.json and figures/.

    Args:
      workdir: of the grid.
      output: folder to write into, made if need be.
      split: whose products' attention over triples is drawn.

    Raises:
      UserError: what `read_scores` says of the results.
    """
    scores = read_scores(workdir / RESULTS)
    output.mkdir(parents=True, exist_ok=True)
    data = list(dict.fromkeys(place.data for place in scores.places))
    counted = {level: coverage(scores, level) for level in data}
    told = _told(scores, sum(c[1] for c in counted.values()), sum(c[2] for c in counted.values()))
    report = Section(
        "K3M beside its baselines",
        (
            told,
            Section("In short", (comparisons.summary(scores, data), *_READING)),
            *(
                Section(level, tuple(_level(scores, level, counted[level][0], output / FIGURES)))
                for level in data
            ),
            Section("The paper's own numbers", (f"{paper.CITED}.", *paper.paper_tables())),
            Section(
                "Attention over triples",
                (_attention(workdir, split, output / FIGURES / "attention"),),
            ),
        ),
    )
    texts = {
        "index.html": page.render(report),
        "report.md": markdown.render(report, output),
        "report.json": json.dumps(as_json(scores, report, told), indent=1, ensure_ascii=False),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    drawn = sorted((output / FIGURES).glob("*"))
    return Written([*(output / name for name in texts), *drawn], told)


def as_json(scores: Scores, report: Section, told: str) -> dict[str, Any]:
    """All scores and all tables, unrounded."""
    found = [
        {**place._asdict(), "metric": metric, **score.json()}
        for place in scores.places
        for metric in scores.metrics(place)
        if (score := scores.score(place, metric))
    ]
    return {"told": told, "scores": found, "tables": [t.json() for t in report.tables()]}


_READING = (
    "Numbers are per cent, mean ± standard deviation over seeds; where a cell has fewer seeds than "
    "others of its table, it says how many (n). A single seed has its 95 % interval over products "
    "in the place of a spread; a difference of a single seed has neither, and says n=1. K3M's row "
    "stands out, and so does in each column the best baseline that is given all that K3M is (+PKG, "
    "with pictures); – is not measured, or not defined. Floors know no model: the majority, naive "
    "Bayes on the title's words, the nearest picture.",
    "TMR, IMR, MMR: title, picture, one of both is missing. TNR, INR, TINR, MNR: title, picture, "
    "both, one or both are another product's. KMR, KNR: triples are missing, another product's. "
    "The number behind is how many per cent of the items are so.",
)


def _level(scores: Scores, data: str, counted: Table, folder: pathlib.Path) -> Iterator[Section]:
    """A section for each task, for ablations, corruption in training, cost and coverage."""
    for task in comparisons.tasks(scores, data):
        yield Section(task.capitalize(), tuple(_task(scores, data, task, folder)))
    if tables := comparisons.ablations(scores, data):
        drawn = figures.draw_ablations(tables[1], folder)
        yield Section("Ablations", (drawn, *tables))
    if tables := comparisons.spoilt_training(scores, data):
        yield Section("Corruption in training too", tuple(tables))
    yield Section("Cost", (comparisons.cost(scores, data),))
    note = (
        "Inferred from what is there: models of a kind are measured in the same settings, with the "
        "same seeds. The results do not tell of what has not begun: a model, its tasks, its seeds."
    )
    yield Section("How much of the grid is there", (counted, note), folded=True)


def _task(scores: Scores, data: str, task: str, folder: pathlib.Path) -> Iterator[Block]:
    metrics = comparisons.metrics(scores, data, task)
    shown = [m for m in metrics if m in naming.SHOWN] or metrics[:1]
    for measured in (MetricView(scores, data, task, metric) for metric in shown):
        yield comparisons.comparison(measured)
        if drawn := figures.draw_course(measured, folder):
            yield drawn
    if rest := [
        MetricView(scores, data, task, metric) for metric in metrics if metric not in shown
    ]:
        tables = tuple(map(comparisons.comparison, rest))
        yield Section(f"Further metrics of {task}", tables, folded=True)


def _attention(workdir: pathlib.Path, split: str, path: pathlib.Path) -> Block:
    """A figure of the first run that there is, or why there is none."""
    why = "no pretrained K3M of the grid lies beside its results"
    for run in sorted((workdir / "runs").glob(f"*/{naming.OURS}/*/{PRETRAINING}")):
        try:
            seen = attention.attended(run, split)
        except UserError as error:
            why = str(error)
        else:
            told = f"Of the run {run.relative_to(workdir)}, on products of the split {split}."
            return attention.draw_attention(seen, path, told)
    return f"Left out: {why}."


def _told(scores: Scores, measured: int, wanted: int) -> str:
    seeds = {seed for place in scores.places for seed in scores.seeds(place)}
    share = f"All {wanted:,}" if measured == wanted else f"{measured:,} of {wanted:,}"
    told = f"{share} cells of what has begun are measured, "
    told += f"with {len(seeds)} seed{'s' * (len(seeds) > 1)}."
    if scores.cut_short:
        told += f" Lines of the results that were cut short, and left out: {scores.cut_short}."
    return told
