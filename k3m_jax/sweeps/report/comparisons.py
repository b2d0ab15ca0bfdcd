"""The tables of a report: K3M beside baselines, floors and itself with a part changed."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from k3m_jax.sweeps.grid import PRETRAINING, slug
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.report.document import Column, Row, Table
from k3m_jax.sweeps.report.naming import OURS
from k3m_jax.sweeps.report.scores import Place, Score, Scores, average
from k3m_jax.sweeps.results import COSTS
from k3m_jax.tasks.trivial_baselines import BASELINES

Line = Sequence[Score | None]  # of a model, by column
LEAD, LEAD_ON_ALL = "K3M − best +PKG", "K3M − best baseline"
GAIN = "+PKG − plain, mean over baselines with pictures"


class MetricView(NamedTuple):
    """One metric of a task on a level of data: what most tables are cut from."""

    scores: Scores
    data: str
    task: str
    metric: str
    training: str = ""  # corruption of the fine-tuning items

    @property
    def name(self) -> str:
        """Of the metric."""
        return naming.metric_called(self.metric)

    def compared(self, model: str) -> bool:
        """Whether it stands in the task's own tables: a K3M that varies only where K3M does not."""
        return not naming.is_ablation(model) or not self.places(naming.is_ours)

    def places(self, wanted: Callable[[str], bool]) -> list[Place]:
        """Those of the models that `wanted` is true of."""
        own = (self.data, self.task, self.training)
        return [
            place
            for place in self.scores.places
            if (place.data, place.task, place.training) == own and wanted(place.model)
        ]

    def unmeasured(self) -> list[str]:
        """Baselines that the results have elsewhere alone: no best here is a best of these."""
        here = {place.model for place in self.places(naming.is_baseline)}
        models = naming.models_in_order(place.model for place in self.scores.places)
        return [m for m in models if naming.is_baseline(m) and m not in here]

    def score(self, model: str, corruption: str) -> Score | None:
        """None where there is none."""
        place = Place(self.data, self.task, model, self.training, corruption)
        return self.scores.score(place, self.metric)

    def lines(
        self, wanted: Callable[[str], bool], corruptions: Sequence[str]
    ) -> dict[str, list[Score | None]]:
        """Of each model, in order, its scores in some settings."""
        models = naming.models_in_order(place.model for place in self.places(wanted))
        return {m: [self.score(m, corruption) for corruption in corruptions] for m in models}


def tasks(scores: Scores, data: str) -> list[str]:
    """Those measured on a level of data."""
    found = (place.task for place in scores.places if place.data == data)
    return [task for task in naming.tasks_in_order(found) if task != PRETRAINING]


def metrics(scores: Scores, data: str, task: str) -> list[str]:
    """Those of a task, its headline first."""
    places = (p for p in scores.places if (p.data, p.task) == (data, task))
    return naming.metrics_in_order(name for place in places for name in scores.metrics(place))


def headlines(scores: Scores, data: str) -> list[MetricView]:
    """The first metric of each task."""
    return [
        MetricView(scores, data, task, metrics(scores, data, task)[0])
        for task in tasks(scores, data)
    ]


def comparison(measured: MetricView) -> Table:
    """All models and floors, clean and in each setting at its highest rate."""
    places = measured.places(measured.compared)
    corruptions = naming.most_of_each(place.corruption for place in places)
    return Table(
        slug(measured.data, measured.task, measured.metric),
        f"{measured.task.capitalize()}, {measured.name} (%)",
        tuple(Column(naming.corruption_called(c)) for c in corruptions),
        _with_differences(measured.lines(measured.compared, corruptions), range(len(corruptions))),
        f"{_sampling(measured, places)} {_best_of(measured)}".strip(),
    )


def summary(scores: Scores, data: Sequence[str]) -> Table:
    """What all levels and tasks say in short."""
    rows, lacking = [], {}
    for measured in (each for level in data for each in headlines(scores, level)):
        lines = measured.lines(naming.is_compared, ("", "TMR100", "TNR100"))
        if not lines:
            continue  # of K3Ms that vary alone
        ours = lines[OURS][0] if OURS in lines else None
        leads = [lead(lines, column) for column in range(3)]
        leads += [lead_on_all(lines, column) for column in range(3)]
        gains = (knowledge_gain(lines, column) for column in (0, 2))
        name = f"{measured.data}: {measured.task}, {measured.name}"
        if lacks := _names(measured.unmeasured()):
            lacking.setdefault(f"{lacks} at {measured.data}", []).append(measured.task)
        rows.append(Row(name, (ours, *leads, *gains)))
    columns = (
        Column("K3M, 0 %"),
        *(Column(f"{LEAD}, {c}", "points") for c in ("0 %", "TMR100", "TNR100")),
        *(Column(f"{LEAD_ON_ALL}, {c}", "points") for c in ("0 %", "TMR100", "TNR100")),
        *(Column(f"+PKG − plain, {c}", "points") for c in ("0 %", "TNR100")),
    )
    note = (
        "Differences in points, paired by seed. The best baseline of those measured at the task, "
        "be it of those with +PKG that see pictures as K3M does or of all, text alone included, is "
        "chosen anew for each number, which favours the baselines; +PKG − plain is the mean over "
        "those that see pictures."
    )
    if lacking:
        told = (f"{models}: {', '.join(tasks)}" for models, tasks in lacking.items())
        note += f" Not measured: {'; '.join(told)}."
    return Table("summary", "K3M, its lead, and what triples are worth", columns, (*rows,), note)


def ablations(scores: Scores, data: str) -> tuple[Table, Table] | None:
    """K3M with a part changed, and what that costs; None where nothing of it was measured."""
    columns: list[tuple[MetricView, str]] = []
    models: list[str] = []
    for measured in headlines(scores, data):
        places = [p for p in measured.places(naming.is_ablation) if not measured.compared(p.model)]
        models += [place.model for place in places]
        corruptions = naming.most_of_each(place.corruption for place in places)
        columns += [(measured, corruption) for corruption in corruptions]
    if not models:
        return None

    def line(model: str) -> Line:
        return [measured.score(model, corruption) for measured, corruption in columns]

    ours = line(OURS)
    lines = {model: line(model) for model in naming.models_in_order(models)}
    floors = {model: line(model) for model in BASELINES}
    titles = [f"{each.name}, {naming.corruption_called(c)}" for each, c in columns]
    values = Table(
        slug(data, "ablations"),
        "K3M with a part changed (%)",
        tuple(Column(title) for title in titles),
        tuple(_row(*each) for each in {OURS: ours, **lines, **floors}.items() if any(each[1])),
    )
    costs = Table(
        slug(data, "ablations", "differences"),
        "The same less K3M as it is (points)",
        tuple(Column(title, "points") for title in titles),
        tuple(_row(model, [*map(_minus, line, ours)]) for model, line in lines.items()),
        "Below 0, what was changed is worth having. Paired by seed.",
    )
    return values, costs


def spoilt_training(scores: Scores, data: str) -> list[Table]:
    """A table for each task and each corruption that fine-tuning items had, too."""
    found = dict.fromkeys((p.task, p.training) for p in scores.places if p.data == data)
    return [
        _spoilt_training(measured, training)
        for measured in headlines(scores, data)
        for task, training in found
        if training and task == measured.task
    ]


def _spoilt_training(clean: MetricView, training: str) -> Table:
    corrupt = clean._replace(training=training)
    places = corrupt.places(corrupt.compared)
    corruptions = sorted({p.corruption for p in places}, key=naming.split_corruption)
    before = clean.lines(corrupt.compared, corruptions)
    nothing = [None] * len(corruptions)
    lines = {
        model: [
            score
            for now, then in zip(line, before.get(model, nothing), strict=True)
            for score in (now, _minus(now, then))
        ]
        for model, line in corrupt.lines(corrupt.compared, corruptions).items()
    }
    columns: list[Column] = []
    for name in map(naming.corruption_called, corruptions):
        columns += [Column(name), Column(f"{name}, gained", "points")]
    return Table(
        slug(clean.data, clean.task, "trained-on", training),
        f"{clean.task.capitalize()}, {clean.name} (%), fine-tuned on {training} items",
        tuple(columns),
        _with_differences(lines, range(0, len(columns), 2)),
        "Gained: points more than after fine-tuning on items as they are, paired by seed. "
        f"{_best_of(corrupt)}".strip(),
    )


def cost(scores: Scores, data: str) -> Table:
    """What pretraining one model takes."""
    measured = MetricView(scores, data, PRETRAINING, "")
    models = naming.models_in_order(p.model for p in measured.places(lambda _: True))
    lines = {
        m: [scores.cost(Place(data, PRETRAINING, m, "", ""), name) for name in COSTS]
        for m in models
    }
    flops = {model: line[COSTS.index("flops")] for model, line in lines.items()}
    for model, line in lines.items():
        both = flops.get(OURS) and flops[model]
        line.append(Score(flops[model].mean / flops[OURS].mean) if both else None)
    columns = (
        Column("parameters", "count"),
        Column("FLOPs", "flops"),
        Column("seconds", "count"),
        Column("FLOPs, % of K3M's"),
    )
    return Table(
        slug(data, PRETRAINING, "cost"),
        "Pretraining of one model",
        columns,
        tuple(_row(model, line) for model, line in lines.items()),
        "FLOPs by formula; seconds on the clock, as the machine was, whatever else ran on it.",
    )


def lead(
    lines: Mapping[str, Line],
    column: int,
    rivals: Callable[[str], bool] = naming.is_equal_input_baseline,
) -> Score | None:
    """K3M less the best of its rivals."""
    best = best_rival(lines, column, rivals)
    return _minus(lines[OURS][column], lines[best][column]) if best else None


def lead_on_all(lines: Mapping[str, Line], column: int) -> Score | None:
    """The same of all baselines: triples as text, or pictures, may cost more than they tell."""
    return lead(lines, column, naming.is_baseline)


def best_rival(
    lines: Mapping[str, Line],
    column: int,
    rivals: Callable[[str], bool] = naming.is_equal_input_baseline,
) -> str | None:
    """Judged by the seeds that K3M has been measured with too; None where there are none."""
    ours = lines[OURS][column] if OURS in lines else None
    leads = {
        model: difference.mean
        for model, line in lines.items()
        if rivals(model) and (difference := _minus(ours, line[column]))
    }
    return min(leads, key=leads.get, default=None)


def knowledge_gain(lines: Mapping[str, Line], column: int) -> Score | None:
    """What the triples as text are worth to a baseline: the mean over those that see pictures.

    To text alone they are worth more than to these, and would stand for all.
    """
    gains = [
        gain
        for model, line in lines.items()
        if model not in naming.TEXT_ALONE
        and (other := lines.get(naming.with_knowledge(model)))
        and (gain := _minus(other[column], line[column]))
    ]
    return average(gains) if gains else None


def _with_differences(lines: Mapping[str, Line], columns: Collection[int]) -> tuple[Row, ...]:
    """The models, what lies between them in some of the columns, the floors."""
    width = len(next(iter(lines.values()), ()))
    best = {column: best_rival(lines, column) for column in columns}
    rows = [
        _row(model, line, frozenset(c for c in best if best[c] == model))
        for model, line in lines.items()
    ]
    differences = [
        Row(name, tuple(of(lines, c) if c in columns else None for c in range(width)), "difference")
        for name, of in ((LEAD, lead), (LEAD_ON_ALL, lead_on_all), (GAIN, knowledge_gain))
    ]
    floors = [row for row in rows if row.kind == "floor"]
    models = [row for row in rows if row.kind != "floor"]
    return (*models, *(row for row in differences if any(row.cells)), *floors)


def _row(model: str, line: Line, best: frozenset[int] = frozenset()) -> Row:
    kind = "ours" if model == OURS else "floor" if naming.is_floor(model) else ""
    return Row(naming.called(model), tuple(line), kind, best)


def _minus(a: Score | None, b: Score | None) -> Score | None:
    return a.minus(b) if a and b else None


def _names(models: Sequence[str]) -> str:
    return ", ".join(map(naming.called, models))


def _best_of(measured: MetricView) -> str:
    """Which baselines no best is of, where K3M is held beside any."""
    lacking = _names(measured.unmeasured())
    compared = measured.places(naming.is_ours) and measured.places(naming.is_baseline)
    return f"The best is of those measured here: not {lacking}." if lacking and compared else ""


def _sampling(measured: MetricView, places: Sequence[Place]) -> str:
    """How far off a single number may be because of the products that were asked about."""
    scores = measured.scores
    widths = [width for p in places for width in scores.interval_widths(p, measured.metric)]
    if not widths:
        return ""
    asked = [*scores.asked(places).values()]
    alike = len(set(asked)) == 1
    counts = zip(*(asked[:1] if alike else asked), strict=True)
    examples, products = (" / ".join(f"{count:,}" for count in by_seed) for by_seed in counts)
    return (
        f"{examples} examples of {products} products{'' if alike else ', seed by seed'}. The 95 % "
        f"interval of one model of one seed reaches ± {50 * statistics.median(widths):.1f} points "
        "(bootstrap over products, median of the cells)."
    )
