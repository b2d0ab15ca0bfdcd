"""Display names of models, tasks, metrics and corruptions, their order, and each model's role.

A name that is not listed here is shown as it is in the results, after those that are.
"""

import typing
from collections.abc import Iterable

from k3m_jax.settings import Corruption
from k3m_jax.tasks.trivial_baselines import BASELINES as TRIVIAL_BASELINES

OURS = "k3m"
MODELS = {
    OURS: "K3M",
    "bert": "BERT",
    "bert_pkg": "BERT+PKG",
    "vilbert": "ViLBERT",
    "vilbert_pkg": "ViLBERT+PKG",
    "vlbert": "VL-BERT",
    "vlbert_pkg": "VL-BERT+PKG",
    "lxmert": "LXMERT",
    "lxmert_pkg": "LXMERT+PKG",
    "k3m_mean": "K3M, mean fusion",
    "k3m_soft": "K3M, soft fusion",
    "k3m_without_iffm": "K3M without IFFM",
    "k3m_without_lpm": "K3M without LPM",
    "k3m_without_structure": "K3M without structure aggregation",
    "k3m_one_head": "K3M, one head",
    "k3m_eight_heads": "K3M, eight heads",
    "k3m_minilm": "K3M, text from MiniLM",
    "k3m_minilm_size": "K3M, text of MiniLM's size",
}
TEXT_ONLY = ("bert", "bert_pkg")
TASKS = ("classification", "alignment", "questions")
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "auc": "AUC",
    "auc_within_catalogue": "AUC within a catalogue",
    "rank@1": "Rank@1",
    "rank@10": "Rank@10",
    "rank@5": "Rank@5",
    "mrr": "MRR",
    "completion_hits@1": "completion Hits@1",
    "completion_hits@5": "completion Hits@5",
    "completion_hits@10": "completion Hits@10",
}
# Metrics with a figure and an open table. A task's first metric is its headline; Rank@10 is what
# the paper's Table 2 reports; AUC has no threshold that corruption could make unsuitable.
SHOWN = ("accuracy", "f1", "auc", "auc_within_catalogue", "rank@1", "rank@10")
SETTINGS = typing.get_args(Corruption.__annotations__["setting"])


def is_trivial_baseline(model: str) -> bool:
    """Whether it is a predictor that the task provides without any model."""
    return model in TRIVIAL_BASELINES


def is_ours(model: str) -> bool:
    """Whether it is K3M itself."""
    return model == OURS


def is_ablation(model: str) -> bool:
    """Whether it is K3M with one part changed."""
    return model.startswith(f"{OURS}_")


def is_main_model(model: str) -> bool:
    """Whether it is K3M or a baseline."""
    return not is_trivial_baseline(model) and not is_ablation(model)


def is_baseline(model: str) -> bool:
    """Whether it is a model that K3M is compared with."""
    return is_main_model(model) and model != OURS


def with_knowledge(model: str) -> str:
    """Name of the variant of a baseline that reads the triples as text."""
    return f"{model}_pkg"


def reads_knowledge(model: str) -> bool:
    """Whether it is a baseline that reads the triples as text."""
    return model.endswith("_pkg")


def is_equal_input_baseline(model: str) -> bool:
    """Whether it is a baseline with all inputs of K3M: titles, pictures and triples."""
    return reads_knowledge(model) and model not in TEXT_ONLY


def model_name(model: str) -> str:
    """A model's name for readers."""
    return MODELS.get(model, model)


def metric_name(metric: str) -> str:
    """A metric's name for readers."""
    return METRICS.get(metric, metric)


def corruption_name(corruption: str) -> str:
    """A column's name."""
    return corruption or "0 %"


def models_in_order(names: Iterable[str]) -> list[str]:
    """K3M, baselines, unknown names, ablations; trivial baselines last."""
    return _in_order(names, [m for m in MODELS if is_main_model(m)], [*MODELS, *TRIVIAL_BASELINES])


def tasks_in_order(names: Iterable[str]) -> list[str]:
    """In the documentation's order."""
    return _in_order(names, TASKS)


def metrics_in_order(names: Iterable[str]) -> list[str]:
    """The headline metric first."""
    return _in_order(names, METRICS)


def split_corruption(corruption: str) -> tuple[str, int]:
    """Setting and per cent; ("", 0) for no corruption."""
    if not corruption:
        return "", 0
    parsed = Corruption.parse(corruption)
    return parsed.setting, round(100 * parsed.rate)


def highest_rates(corruptions: Iterable[str]) -> list[str]:
    """No corruption, and each setting at its highest rate, in the protocol's order."""
    highest: dict[str, int] = {}
    for setting, rate in map(split_corruption, corruptions):
        highest[setting] = max(rate, highest.get(setting, 0))
    return [f"{s}{highest[s]}" if s else "" for s in ("", *SETTINGS) if s in highest]


def _in_order(names: Iterable[str], first: Iterable[str], last: Iterable[str] = ()) -> list[str]:
    """Those in `first`, then those in neither, then those in `last`, each in its order."""
    given, first = list(dict.fromkeys(names)), list(first)
    last = [name for name in last if name not in first]
    known = {*first, *last}
    return [
        *(name for name in first if name in given),
        *(name for name in given if name not in known),
        *(name for name in last if name in given),
    ]
