"""Stability of a run's parameters: as it trains, a row of its evaluation, a report."""

import functools
from collections.abc import Collection

import numpy as np
from jax.sharding import Mesh

from k3m_jax import modalities
from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.evaluation import stability_floors
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.report import Report, Row, Score
from k3m_jax.evaluation.stability import ONE_MISSING, SETTINGS, Metrics, Sample, measure, unit
from k3m_jax.evaluation.stability_report import stability_report
from k3m_jax.metrics import wilson_interval
from k3m_jax.model.network import Network, Params
from k3m_jax.objectives.base import Sum

BASELINE = "floor"  # as in `Evaluator`: of a model that gives one vector to all items
IN_TRAINING = (*ONE_MISSING, "TOR", "IOR", "MNR")  # settings that a run measures as it trains
SUMMARY = "stability"


class StabilityEvaluator:
    """Measures parameters on `evaluation.stability` items of `data.valid_split`, uncorrupted."""

    def __init__(self, network: Network, mesh: Mesh, inputs: Inputs):
        """As `Evaluator`; reads items at the first call."""
        self._network, self._inputs = network, inputs
        self._embedder = Embedder(network, mesh, inputs.tokenizer)

    def __call__(self, params: Params, settings: Collection[str] = tuple(SETTINGS)) -> Metrics:
        """The metrics of `stability.measure`."""
        embedder = self._embedder.at(params)
        return measure(self._sample, lambda views: unit(embedder(views)), settings)

    def values(self, params: Params) -> dict[str, float]:
        """`stability/…`, the means of `IN_TRAINING`; `stability`, `floor/…`, `targets/…` of it."""
        found = self(params, IN_TRAINING)
        values = {f"{SUMMARY}/{name}": _mean(x) for name, x in found.items() if x.weight.any()}
        if row := self.row(found):
            values[SUMMARY] = row.model.value
            values[f"{BASELINE}/{SUMMARY}"] = row.baselines[BASELINE].value
            values[f"targets/{SUMMARY}_{row.unit}"] = float(row.targets)
        return values

    def row(self, metrics: Metrics) -> Row | None:
        """Recall@1 with one modality missing; None where no item can be measured so.

        An item counts as a whole with all of these settings.
        """
        parts = [metrics.get(f"{setting}100_recall_at_1") for setting in ONE_MISSING]
        parts = [part for part in parts if part is not None]
        if not parts:
            return None
        found = Sum(*np.sum(parts, axis=0))
        score, chance = Score(_mean(found), wilson_interval(*found)), Score(1 / len(self._sample))
        label = "own vector found without title, picture or triples"
        count = int(np.count_nonzero(found.weight))
        return Row(SUMMARY, label, score, {BASELINE: chance}, count, "items")

    def report(
        self, metrics: Metrics, checkpoint: int, *, trivial_baselines: bool = True
    ) -> Report:
        """All settings as tables, next to those of the floors."""
        floors = stability_floors.measure(self._sample) if trivial_baselines else {}
        split = self._network.settings.data.valid_split
        return stability_report(metrics, floors, self._sample, split, checkpoint)

    @functools.cached_property
    def _sample(self) -> Sample:
        settings = self._network.settings
        read = {modality.name for modality in modalities.active(settings)}
        read |= {"knowledge"} if settings.model.knowledge_text else set()
        split, limit = settings.data.valid_split, settings.evaluation.stability
        return Sample(self._inputs.shard_sets, split, limit, read)


def _mean(metric: Sum) -> float:
    return float(metric.total.sum() / metric.weight.sum())
