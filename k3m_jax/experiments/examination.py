"""A model's embeddings put to a task: embedded, judged by a head, beside the floors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from k3m_jax.data.batch import batch_spec
from k3m_jax.evaluation.bootstrap import Resampling, Statistic
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.task_metrics import best_threshold
from k3m_jax.evaluation.task_report import Row
from k3m_jax.experiments.asked import Asked
from k3m_jax.experiments.judges import Judge
from k3m_jax.objectives import pretraining
from k3m_jax.settings import Corruption, Settings

CLEAN = Corruption()


class Examination:
    """Of one head on one split, in as many settings as are wanted.

    Whatever is chosen by validation examples is chosen by those that nothing is wrong with.
    """

    def __init__(
        self,
        settings: Settings,
        embedder: Embedder,
        judge: Judge,
        train: Asked,
        valid: Asked,
        asked: Asked,
        train_corruption: Corruption = CLEAN,
    ):
        """`train` and `valid` are what the head, the threshold and the floors are made from."""
        self._embedder, self._judge, self._asked = embedder, judge, asked
        self._train, self._valid = train, valid
        self._known = train.surface(train_corruption)
        self._sampling = Resampling(asked.products)
        linked = "lpm" in pretraining.tasks(batch_spec(settings, 1))
        self._norm = settings.objectives.lpm.norm if linked else None
        self._thresholds: dict[str, float] = {}

    def rows(
        self, params: Any, valid_c: np.ndarray, corruption: Corruption, scale: Any
    ) -> tuple[Row, ...]:
        """The table's rows.

        Args:
          params: of the head.
          valid_c: embeddings of the validation examples' rows, scaled.
          corruption: of the asked examples' items.
          scale: embeddings [N, D] -> what the head reads.
        """
        judge, asked = self._judge, self._asked
        c = self._embedder(asked.sources(corruption))
        floors = judge.floors(self._train, self._known, asked, asked.surface(corruption))
        if judge.needs_threshold and not self._thresholds:
            self._choose(judge.scores(params, self._valid, valid_c))
        limit = self._thresholds.get
        model = judge.statistics(asked, judge.scores(params, asked, scale(c)), limit("model", 0.0))
        others = {
            name: judge.statistics(asked, scores, limit(name, 0.0))
            for name, scores in floors.items()
        }
        rows = [self._row(metric, metric, each, others) for metric, each in model.items()]
        if self._norm:
            for called, statistics in judge.without_head(asked, c, self._norm).items():
                rows += [
                    self._row(f"{called} {metric}", metric, each, others)
                    for metric, each in statistics.items()
                ]
        return tuple(rows)

    def _choose(self, scores: np.ndarray) -> None:
        """The thresholds of the model and of each floor."""
        labels = self._valid.labels == 1
        floors = self._judge.floors(
            self._train, self._known, self._valid, self._valid.surface(CLEAN)
        )
        for name, found in {"model": scores, **floors}.items():
            self._thresholds[name] = best_threshold(found, labels)

    def _row(
        self,
        called: str,
        metric: str,
        model: Statistic,
        floors: Mapping[str, Mapping[str, Statistic]],
    ) -> Row:
        others = {name: statistics[metric] for name, statistics in floors.items()}
        return Row.of(called, self._sampling, model, others)
