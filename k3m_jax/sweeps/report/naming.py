"""What models, tasks, metrics and settings are called, their order, and what part they play.

A name that is not here is shown as the file has it, behind those that are.
"""

import typing
from collections.abc import Iterable

from k3m_jax.settings import Corruption
from k3m_jax.tasks.trivial_baselines import BASELINES

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
TEXT_ALONE = ("bert", "bert_pkg")
TASKS = ("classification", "alignment", "questions")
METRICS = {
    "accuracy": "accuracy",
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
# Of a task's metrics those with a figure and an open table: the first one is its headline, Rank@10
# is what the paper's Table 2 has, and AUC needs no threshold, which corruption may displace.
SHOWN = ("accuracy", "f1", "auc", "auc_within_catalogue", "rank@1", "rank@10")
SETTINGS = typing.get_args(Corruption.__annotations__["setting"])


def is_floor(model: str) -> bool:
    """Whether it is no model, but what the task gives without any."""
    return model in BASELINES


def is_ours(model: str) -> bool:
    """Whether it is K3M as it is."""
    return model == OURS


def is_ablation(model: str) -> bool:
    """Whether it is K3M with a part changed."""
    return model.startswith(f"{OURS}_")


def is_compared(model: str) -> bool:
    """Whether it is K3M or a baseline."""
    return not is_floor(model) and not is_ablation(model)


def is_baseline(model: str) -> bool:
    """Whether it is a model beside which K3M is held."""
    return is_compared(model) and model != OURS


def with_knowledge(model: str) -> str:
    """What a baseline is called where it reads the triples as text."""
    return f"{model}_pkg"


def reads_knowledge(model: str) -> bool:
    """Whether it is a baseline that reads the triples as text."""
    return model.endswith("_pkg")


def is_equal_input_baseline(model: str) -> bool:
    """Whether it is a baseline that is given all that K3M is: titles, pictures and triples."""
    return reads_knowledge(model) and model not in TEXT_ALONE


def called(model: str) -> str:
    """A model's name for people."""
    return MODELS.get(model, model)


def metric_called(metric: str) -> str:
    """A metric's name for people."""
    return METRICS.get(metric, metric)


def models_in_order(names: Iterable[str]) -> list[str]:
    """K3M, baselines, what is not known, ablations; floors last."""
    return _in_order(names, [m for m in MODELS if is_compared(m)], [*MODELS, *BASELINES])


def tasks_in_order(names: Iterable[str]) -> list[str]:
    """As the documentation has them."""
    return _in_order(names, TASKS)


def metrics_in_order(names: Iterable[str]) -> list[str]:
    """The headline first."""
    return _in_order(names, METRICS)


def split_corruption(corruption: str) -> tuple[str, int]:
    """Setting and per cent; ("", 0) of none."""
    if not corruption:
        return "", 0
    parsed = Corruption.parse(corruption)
    return parsed.setting, round(100 * parsed.rate)


def most_of_each(corruptions: Iterable[str]) -> list[str]:
    """None, and each setting at its highest rate, in the protocol's order."""
    highest: dict[str, int] = {}
    for setting, rate in map(split_corruption, corruptions):
        highest[setting] = max(rate, highest.get(setting, 0))
    return [f"{s}{highest[s]}" if s else "" for s in ("", *SETTINGS) if s in highest]


def corruption_called(corruption: str) -> str:
    """A column's name."""
    return corruption or "0 %"


def _in_order(names: Iterable[str], first: Iterable[str], last: Iterable[str] = ()) -> list[str]:
    """Those of `first`, then what is in neither, then those of `last`, each in its order."""
    given, first = list(dict.fromkeys(names)), list(first)
    last = [name for name in last if name not in first]
    known = {*first, *last}
    return [
        *(name for name in first if name in given),
        *(name for name in given if name not in known),
        *(name for name in last if name in given),
    ]
