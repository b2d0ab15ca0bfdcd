"""How much of a grid its results file holds."""

from collections.abc import Iterator

from k3m_jax.sweeps.grid import slug
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.report.document import Column, Row, Table
from k3m_jax.sweeps.report.scores import Place, Scores


def coverage(scores: Scores, data: str) -> tuple[Table, int, int]:
    """Cells of each model and task that are measured, of those that there would be; and the sums.

    What a grid wants is not in the file, so it is inferred: models of a kind (K3M and baselines, or
    ablations) are measured in the same settings of the same tasks, with the seeds that any of them
    was asked with, as far as the model has begun them. Not known is a model, a task, a setting or a
    seed of which nothing has been measured.
    """
    places = [p for p in scores.places if p.data == data and not naming.is_floor(p.model)]
    models = naming.models_in_order(place.model for place in places)
    parts = [
        (task, training)
        for task in naming.tasks_in_order(place.task for place in places)
        for training in dict.fromkeys(p.training for p in places if p.task == task)
    ]
    counts = {model: [_counts(scores, places, model, *part) for part in parts] for model in models}
    rows = tuple(
        Row(naming.called(model), tuple(f"{a:,} of {b:,}" if b else None for a, b in line))
        for model, line in counts.items()
    )
    columns = tuple(Column(", ".join(filter(None, part)), "text") for part in parts)
    table = Table(slug(data, "coverage"), "Cells measured", columns, rows)
    pairs = [pair for line in counts.values() for pair in line]
    return table, sum(a for a, _ in pairs), sum(b for _, b in pairs)


def _counts(
    scores: Scores, places: list[Place], model: str, task: str, training: str
) -> tuple[int, int]:
    """Measured, and wanted, of a model in a part of the grid."""

    def alike() -> Iterator[Place]:
        for place in places:
            kin = naming.is_ablation(place.model) == naming.is_ablation(model)
            if kin and (place.task, place.training) == (task, training):
                yield place

    begun = {seed for p in places if p.model == model for seed in scores.seeds(p)}
    wanted = {(p.corruption, seed) for p in alike() for seed in scores.seeds(p) if seed in begun}
    measured = sum(len(scores.seeds(place)) for place in alike() if place.model == model)
    return measured, len(wanted) if measured else 0
