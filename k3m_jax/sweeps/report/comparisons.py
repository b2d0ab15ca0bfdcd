"""The main tables of a report: K3M against baselines, trivial baselines and its own ablations."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

from k3m_jax.sweeps.grid import PRETRAINING, slug
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.report.document import Column, Row, Table
from k3m_jax.sweeps.report.naming import OURS, TRIVIAL_BASELINES
from k3m_jax.sweeps.report.scores import Condition, MetricView, Score, Scores, average

Line = Sequence[Score | None]  # scores of a model, by column
LEAD, LEAD_OVER_ALL = "K3M − best +PKG", "K3M − best baseline"
GAIN = "+PKG − plain, mean over baselines with pictures"


def tasks(scores: Scores, data: str) -> list[str]:
    """The downstream tasks measured on a level of data."""
    found = (condition.task for condition in scores.conditions if condition.data == data)
    return [task for task in naming.tasks_in_order(found) if task != PRETRAINING]


def metrics(scores: Scores, data: str, task: str) -> list[str]:
    """The metrics of a task, its headline first."""
    of_task = (c for c in scores.conditions if (c.data, c.task) == (data, task))
    return naming.metrics_in_order(name for c in of_task for name in scores.metrics(c))


def headlines(scores: Scores, data: str) -> list[MetricView]:
    """The headline metric of each task."""
    return [
        MetricView(scores, data, task, metrics(scores, data, task)[0])
        for task in tasks(scores, data)
    ]


def comparison(view: MetricView) -> Table:
    """All models and trivial baselines, clean and under each corruption at its highest rate."""
    conditions = view.conditions(view.has_row)
    corruptions = naming.highest_rates(condition.corruption for condition in conditions)
    return Table(
        slug(view.data, view.task, view.metric),
        f"{view.task.capitalize()}, {view.name} (%)",
        tuple(Column(naming.corruption_name(c)) for c in corruptions),
        _with_differences(view.lines(view.has_row, corruptions), range(len(corruptions))),
        f"{_sampling_error(view, conditions)} {_excluded_from_best(view)}".strip(),
    )


def summary(scores: Scores, data: Sequence[str]) -> Table:
    """K3M's score and leads at each task of each level of data."""
    rows, missing = [], {}
    for view in (each for level in data for each in headlines(scores, level)):
        lines = view.lines(naming.is_main_model, ("", "TMR100", "TNR100"))
        if not lines:
            continue  # only ablations were measured
        ours = lines[OURS][0] if OURS in lines else None
        leads = [lead(lines, column) for column in range(3)]
        leads += [lead_over_all(lines, column) for column in range(3)]
        gains = (knowledge_gain(lines, column) for column in (0, 2))
        name = f"{view.data}: {view.task}, {view.name}"
        if models := _names(view.unmeasured_baselines()):
            missing.setdefault(f"{models} at {view.data}", []).append(view.task)
        rows.append(Row(name, (ours, *leads, *gains)))
    columns = (
        Column("K3M, 0 %"),
        *(Column(f"{LEAD}, {c}", "points") for c in ("0 %", "TMR100", "TNR100")),
        *(Column(f"{LEAD_OVER_ALL}, {c}", "points") for c in ("0 %", "TMR100", "TNR100")),
        *(Column(f"+PKG − plain, {c}", "points") for c in ("0 %", "TNR100")),
    )
    note = (
        "Differences in points, paired by seed. The best baseline is chosen separately for each "
        "number among those measured at the task, which favours the baselines: among those with "
        "+PKG and pictures, which have all inputs of K3M, or among all, including text alone. "
        "+PKG − plain is the mean over the baselines with pictures."
    )
    if missing:
        texts = (f"{models}: {', '.join(tasks)}" for models, tasks in missing.items())
        note += f" Not measured: {'; '.join(texts)}."
    return Table("summary", "K3M, its lead, and what triples are worth", columns, (*rows,), note)


def ablations(scores: Scores, data: str) -> tuple[Table, Table] | None:
    """Scores of the ablations and their differences from K3M; None if none was measured."""
    columns: list[tuple[MetricView, str]] = []
    models: list[str] = []
    for view in headlines(scores, data):
        measured = [c for c in view.conditions(naming.is_ablation) if not view.has_row(c.model)]
        models += [condition.model for condition in measured]
        corruptions = naming.highest_rates(condition.corruption for condition in measured)
        columns += [(view, corruption) for corruption in corruptions]
    if not models:
        return None

    def line(model: str) -> Line:
        return [view.score(model, corruption) for view, corruption in columns]

    ours = line(OURS)
    lines = {model: line(model) for model in naming.models_in_order(models)}
    trivial = {model: line(model) for model in TRIVIAL_BASELINES}
    titles = [f"{each.name}, {naming.corruption_name(c)}" for each, c in columns]
    values = Table(
        slug(data, "ablations"),
        "K3M with one part changed (%)",
        tuple(Column(title) for title in titles),
        tuple(_row(*each) for each in {OURS: ours, **lines, **trivial}.items() if any(each[1])),
    )
    differences = Table(
        slug(data, "ablations", "differences"),
        "Difference from K3M (points)",
        tuple(Column(title, "points") for title in titles),
        tuple(_row(model, [*map(_minus, line, ours)]) for model, line in lines.items()),
        "Below 0, K3M without the change is better. Paired by seed.",
    )
    return values, differences


def corrupted_training(scores: Scores, data: str) -> list[Table]:
    """A table for each task and each corruption of its fine-tuning items."""
    found = dict.fromkeys((c.task, c.training) for c in scores.conditions if c.data == data)
    return [
        _corrupted_training(view, training)
        for view in headlines(scores, data)
        for task, training in found
        if training and task == view.task
    ]


def _corrupted_training(clean: MetricView, training: str) -> Table:
    corrupt = clean._replace(training=training)
    measured = corrupt.conditions(corrupt.has_row)
    corruptions = sorted({c.corruption for c in measured}, key=naming.split_corruption)
    before = clean.lines(corrupt.has_row, corruptions)
    nothing = [None] * len(corruptions)
    lines = {
        model: [
            score
            for now, then in zip(line, before.get(model, nothing), strict=True)
            for score in (now, _minus(now, then))
        ]
        for model, line in corrupt.lines(corrupt.has_row, corruptions).items()
    }
    columns: list[Column] = []
    for name in map(naming.corruption_name, corruptions):
        columns += [Column(name), Column(f"{name}, gain", "points")]
    return Table(
        slug(clean.data, clean.task, "trained-on", training),
        f"{clean.task.capitalize()}, {clean.name} (%), fine-tuned on {training} items",
        tuple(columns),
        _with_differences(lines, range(0, len(columns), 2)),
        "Gain: difference in points from fine-tuning on clean items, paired by seed. "
        f"{_excluded_from_best(corrupt)}".strip(),
    )


def lead(
    lines: Mapping[str, Line],
    column: int,
    select: Callable[[str], bool] = naming.is_equal_input_baseline,
) -> Score | None:
    """K3M minus the best of the selected baselines."""
    best = best_baseline(lines, column, select)
    return _minus(lines[OURS][column], lines[best][column]) if best else None


def lead_over_all(lines: Mapping[str, Line], column: int) -> Score | None:
    """K3M minus the best of all baselines, which need not have all inputs."""
    return lead(lines, column, naming.is_baseline)


def best_baseline(
    lines: Mapping[str, Line],
    column: int,
    select: Callable[[str], bool] = naming.is_equal_input_baseline,
) -> str | None:
    """The best on the seeds that it shares with K3M; None if there is none."""
    ours = lines[OURS][column] if OURS in lines else None
    leads = {
        model: difference.mean
        for model, line in lines.items()
        if select(model) and (difference := _minus(ours, line[column]))
    }
    return min(leads, key=leads.get, default=None)


def knowledge_gain(lines: Mapping[str, Line], column: int) -> Score | None:
    """What a baseline gains from triples as text: the mean over those with pictures.

    Text-only baselines gain more than these and would dominate the mean.
    """
    gains = [
        gain
        for model, line in lines.items()
        if model not in naming.TEXT_ONLY
        and (other := lines.get(naming.with_knowledge(model)))
        and (gain := _minus(other[column], line[column]))
    ]
    return average(gains) if gains else None


def _with_differences(lines: Mapping[str, Line], columns: Collection[int]) -> tuple[Row, ...]:
    """The models, their differences in some of the columns, the trivial baselines."""
    width = len(next(iter(lines.values()), ()))
    best = {column: best_baseline(lines, column) for column in columns}
    rows = [
        _row(model, line, frozenset(c for c in best if best[c] == model))
        for model, line in lines.items()
    ]
    differences = [
        Row(name, tuple(of(lines, c) if c in columns else None for c in range(width)), "difference")
        for name, of in ((LEAD, lead), (LEAD_OVER_ALL, lead_over_all), (GAIN, knowledge_gain))
    ]
    trivial = [row for row in rows if row.kind == "trivial"]
    models = [row for row in rows if row.kind != "trivial"]
    return (*models, *(row for row in differences if any(row.cells)), *trivial)


def _row(model: str, line: Line, best: frozenset[int] = frozenset()) -> Row:
    kind = "ours" if model == OURS else "trivial" if naming.is_trivial_baseline(model) else ""
    return Row(naming.model_name(model), tuple(line), kind, best)


def _minus(a: Score | None, b: Score | None) -> Score | None:
    return a.minus(b) if a and b else None


def _names(models: Sequence[str]) -> str:
    return ", ".join(map(naming.model_name, models))


def _excluded_from_best(view: MetricView) -> str:
    """Which baselines "best" does not include, where K3M is compared with any."""
    missing = _names(view.unmeasured_baselines())
    compared = view.conditions(naming.is_ours) and view.conditions(naming.is_baseline)
    return f"Not measured here, so never the best: {missing}." if missing and compared else ""


def _sampling_error(view: MetricView, conditions: Sequence[Condition]) -> str:
    """Sample sizes, and how uncertain a single number is because of the choice of products."""
    scores = view.scores
    widths = [width for c in conditions for width in scores.interval_widths(c, view.metric)]
    if not widths:
        return ""
    sizes = [*scores.sample_sizes(conditions).values()]
    equal = len(set(sizes)) == 1
    counts = zip(*(sizes[:1] if equal else sizes), strict=True)
    examples, products = (" / ".join(f"{count:,}" for count in by_seed) for by_seed in counts)
    return (
        f"{examples} examples of {products} products{'' if equal else ', seed by seed'}. The 95 % "
        f"interval of one model of one seed is ± {50 * statistics.median(widths):.1f} points "
        "(bootstrap over products, median over the table)."
    )
