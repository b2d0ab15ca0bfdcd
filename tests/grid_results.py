"""Hand-made results of a small grid, for the tests of its report."""

from k3m_jax.sweeps.report import comparisons
from k3m_jax.sweeps.report.scores import MetricView, Scores

DATA = "overlap 20 %"


def line(model, seed, value, corruption="", *, task="classification", metric="accuracy", **keys):
    interval = None if value is None else [value - 0.05, value + 0.05]
    content = {"data": DATA, "model": model, "seed": seed, "task": task, "training": ""}
    content |= {"corruption": corruption, "fingerprint": "f", "examples": 40, "products": 20}
    return content | {"metrics": {metric: {"value": value, "interval": interval}}, **keys}


def pretrained(model, seed, flops):
    cost = {"parameters": 1200, "flops": flops, "seconds": 10.0 + seed}
    return line(model, seed, 4.0, task="pretraining", metric="loss", **cost)


# Of TNR100, seed 1 of vilbert_pkg is missing and one value of K3M is null.
LINES = [
    *(line("k3m", seed, value) for seed, value in enumerate((0.90, 0.92, 0.94))),
    *(line("k3m", seed, value, "TNR100") for seed, value in enumerate((0.60, 0.70, None))),
    *(line("k3m", seed, 0.8, "TNR50") for seed in range(3)),
    *(line("vilbert", seed, value) for seed, value in enumerate((0.95, 0.85, 0.93))),
    *(line("vilbert", seed, 0.2, "TNR100") for seed in range(3)),
    *(line("vilbert_pkg", seed, value) for seed, value in enumerate((0.80, 0.84, 0.88))),
    *(line("vilbert_pkg", seed, value, "TNR100") for seed, value in ((0, 0.65), (2, 0.99))),
    *(line("lxmert_pkg", seed, 0.5, c) for seed in range(3) for c in ("", "TNR100")),
    line("majority", 0, 0.14),
    line("majority", 0, 0.14, "TNR100"),
    *(line("k3m_mean", seed, value) for seed, value in enumerate((0.88, 0.88, 0.94))),
    *(line("k3m", seed, 0.95, training="MNR50") for seed in range(3)),
    *(pretrained("k3m", seed, 4e12) for seed in range(3)),
    pretrained("vilbert_pkg", 0, 3e12),
]  # fmt: skip
SCORES = Scores(LINES)


def view(lines=LINES, task="classification"):
    return MetricView(Scores(lines), DATA, task, "accuracy")


def compare(lines=LINES, task="classification"):
    return comparisons.comparison(view(lines, task))
