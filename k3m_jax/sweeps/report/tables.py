"""The minor tables of a report: cost, coverage of the grid, and the paper's own numbers."""

from collections.abc import Iterator, Mapping, Sequence

from k3m_jax.sweeps.grid import PRETRAINING, slug
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.report.document import Column, Row, Table
from k3m_jax.sweeps.report.naming import OURS
from k3m_jax.sweeps.report.scores import Condition, Score, Scores
from k3m_jax.sweeps.results import COSTS

CITATION = "Zhu et al., Knowledge Perceived Multi-modal Pretraining in E-commerce, ACM MM 2021"
PAPER_COLUMNS = ("0 %", "TMR100", "IMR100", "MMR100", "TNR100", "INR100", "TINR100", "MNR100")
PAPER_RANK_AT_10 = {
    "K3M (hard)": (87.2, 76.8, 86.3, 78.9, 76.5, 86.6, 73.7, 75.3),
    "ViLBERT": (74.1, 38.5, 72.7, 51.2, 39.0, 73.3, 2.1, 27.7),
    "ViLBERT+PKG": (80.6, 68.9, 79.1, 70.9, 66.3, 79.9, 64.5, 67.3),
}
PAPER_ACCURACY = {
    "K3M (hard)": (93.2, 86.9, 89.3, 87.7, 86.4, 87.4, 81.7, 87.2),
    "ViLBERT+PKG": (92.5, 83.0, 83.0, 84.0, 82.0, 83.0, 78.5, 83.0),
}


def cost(scores: Scores, data: str) -> Table:
    """Cost of pretraining one model."""
    conditions = {c.model: c for c in scores.conditions if (c.data, c.task) == (data, PRETRAINING)}
    lines = {
        model: [scores.cost(conditions[model], name) for name in COSTS]
        for model in naming.models_in_order(conditions)
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
        tuple(
            Row(naming.model_name(model), tuple(line), "ours" if model == OURS else "")
            for model, line in lines.items()
        ),
        "FLOPs by formula; seconds of wall-clock time on a machine that may have run other work.",
    )


def coverage(scores: Scores, data: str) -> tuple[Table, int, int]:
    """Measured and expected trials of each model and task, and the two totals.

    The results file does not contain the grid, so the expected trials are inferred: models of a
    kind (K3M and baselines, or ablations) are measured under the same corruptions at the same
    tasks, with every seed that the model has begun there. A model, task, corruption or seed without
    any result is not counted.
    """
    conditions = [
        c for c in scores.conditions if c.data == data and not naming.is_trivial_baseline(c.model)
    ]
    models = naming.models_in_order(condition.model for condition in conditions)
    blocks = [
        (task, training)
        for task in naming.tasks_in_order(condition.task for condition in conditions)
        for training in dict.fromkeys(c.training for c in conditions if c.task == task)
    ]
    counts = {m: [_counts(scores, conditions, m, *block) for block in blocks] for m in models}
    rows = tuple(
        Row(naming.model_name(model), tuple(f"{a:,} of {b:,}" if b else None for a, b in line))
        for model, line in counts.items()
    )
    columns = tuple(Column(", ".join(filter(None, block)), "text") for block in blocks)
    table = Table(slug(data, "coverage"), "Measured trials", columns, rows)
    pairs = [pair for line in counts.values() for pair in line]
    return table, sum(a for a, _ in pairs), sum(b for _, b in pairs)


def paper_tables() -> tuple[Table, Table]:
    """Questions and classification as the paper reports them."""
    return (
        _paper_table("questions-rank-10", "Questions, Rank@10 (%): its Table 2", PAPER_RANK_AT_10),
        _paper_table(
            "classification-accuracy",
            "Classification, accuracy (%): read off its figure, ± 0.5",
            PAPER_ACCURACY,
        ),
    )


def _counts(
    scores: Scores, conditions: Sequence[Condition], model: str, task: str, training: str
) -> tuple[int, int]:
    """Measured and expected trials of a model in one column."""

    def of_same_kind() -> Iterator[Condition]:
        for condition in conditions:
            same = naming.is_ablation(condition.model) == naming.is_ablation(model)
            if same and (condition.task, condition.training) == (task, training):
                yield condition

    begun = {seed for c in conditions if c.model == model for seed in scores.seeds(c)}
    expected = {
        (c.corruption, seed) for c in of_same_kind() for seed in scores.seeds(c) if seed in begun
    }
    measured = sum(len(scores.seeds(c)) for c in of_same_kind() if c.model == model)
    return measured, len(expected) if measured else 0


def _paper_table(key: str, title: str, numbers: Mapping[str, tuple[float, ...]]) -> Table:
    lines = {name: tuple(Score(x / 100) for x in line) for name, line in numbers.items()}
    ours, best = "K3M (hard)", "ViLBERT+PKG"
    everywhere = frozenset(range(len(PAPER_COLUMNS)))
    rows = [
        Row(name, line, "ours" if name == ours else "", everywhere if name == best else frozenset())
        for name, line in lines.items()
    ]
    difference = tuple(a.minus(b) for a, b in zip(lines[ours], lines[best], strict=True))
    rows.append(Row(f"K3M − {best}", difference, "difference"))
    note = "The paper's own products and questions: compare shapes, never levels."
    return Table(f"paper-{key}", title, tuple(map(Column, PAPER_COLUMNS)), tuple(rows), note)
