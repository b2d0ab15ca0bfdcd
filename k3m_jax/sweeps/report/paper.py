"""What the paper has: numbers of its own products, beside which only shapes can be held."""

from k3m_jax.sweeps.report.document import Column, Row, Table
from k3m_jax.sweeps.report.scores import Score

CITED = "Zhu et al., Knowledge Perceived Multi-modal Pretraining in E-commerce, ACM MM 2021"
COLUMNS = ("0 %", "TMR100", "IMR100", "MMR100", "TNR100", "INR100", "TINR100", "MNR100")
RANK_AT_10 = {
    "K3M (hard)": (87.2, 76.8, 86.3, 78.9, 76.5, 86.6, 73.7, 75.3),
    "ViLBERT": (74.1, 38.5, 72.7, 51.2, 39.0, 73.3, 2.1, 27.7),
    "ViLBERT+PKG": (80.6, 68.9, 79.1, 70.9, 66.3, 79.9, 64.5, 67.3),
}
ACCURACY = {
    "K3M (hard)": (93.2, 86.9, 89.3, 87.7, 86.4, 87.4, 81.7, 87.2),
    "ViLBERT+PKG": (92.5, 83.0, 83.0, 84.0, 82.0, 83.0, 78.5, 83.0),
}


def paper_tables() -> tuple[Table, Table]:
    """Questions and classification, as the paper has them."""
    foreign = "The paper's own products and questions: compare shapes, never levels."
    return (
        _table("questions-rank-10", "Questions, Rank@10 (%): its Table 2", RANK_AT_10, foreign),
        _table(
            "classification-accuracy",
            "Classification, accuracy (%): read off its figure, ± 0.5",
            ACCURACY,
            foreign,
        ),
    )


def _table(key: str, title: str, numbers: dict[str, tuple[float, ...]], note: str) -> Table:
    lines = {name: [Score(x / 100) for x in line] for name, line in numbers.items()}
    (ours, *_), rivals = lines.values(), lines["ViLBERT+PKG"]
    rows = [
        Row(name, tuple(line), "ours" if line is ours else "", _all(line is rivals))
        for name, line in lines.items()
    ]
    difference = tuple(a.minus(b) for a, b in zip(ours, rivals, strict=True))
    rows.append(Row("K3M − ViLBERT+PKG", difference, "difference"))
    return Table(f"paper-{key}", title, tuple(map(Column, COLUMNS)), tuple(rows), note)


def _all(best: bool) -> frozenset[int]:
    return frozenset(range(len(COLUMNS)) if best else ())
