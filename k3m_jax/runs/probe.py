"""Probes: what a small head can read off the embeddings of a pretrained model.

The model stays as it is. Items are embedded once for each setting; the head is fitted once, to
training items, and measured in every setting.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from k3m_jax.data.input.batch import batch_spec, inference_settings
from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.model.task_heads import Head
from k3m_jax.objectives import pretraining
from k3m_jax.runs.head_fitting import fit
from k3m_jax.runs.task_evaluation import CLEAN, Splits, TaskEvaluation
from k3m_jax.runs.task_scorers import make_scorer
from k3m_jax.settings import Corruption, Settings
from k3m_jax.tasks.examples import with_classes


class Standardizer(NamedTuple):
    """What makes training embeddings of mean 0 and variance 1: models differ in their scale."""

    mean: np.ndarray  # [D]
    spread: np.ndarray  # [D]

    @classmethod
    def of(cls, x: np.ndarray) -> "Standardizer":
        """Of vectors [N, D]; a dimension that does not vary stays at 0."""
        spread = x.std(0)
        return cls(x.mean(0), np.where(spread > 1e-6, spread, np.inf))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Vectors [N, D], scaled."""
        return (x - self.mean) / self.spread


def probe(
    settings: Settings,
    inputs: Inputs,
    embedder: Embedder,
    checkpoint: int,
    *,
    split: str,
    corruptions: Sequence[Corruption],
    train_corruption: Corruption = CLEAN,
    held_out: Sequence[ShardSet] = (),
) -> Iterator[TaskReport]:
    """Fits a head and measures it.

    Args:
      settings: of the run, resolved; `task` says what is asked.
      inputs: its data. The head learns from its `data.train_split`, and its penalty and threshold
        are chosen on its `data.valid_split`.
      embedder: of its parameters.
      checkpoint: their step.
      split: what is measured on.
      corruptions: of the measured items, one report for each.
      train_corruption: of the items that the head learns from; validation items are never corrupt.
      held_out: data sets to measure on; () are the run's own.

    Raises:
      UserError: a split that there is not, or one that the task can't ask anything of,
        pictures in `held_out` that are not like the run's, or embeddings or scores that are not
        finite.
    """
    task = with_classes(settings.task, inputs.shard_sets, settings.data.train_split)
    splits = Splits.of(task, settings, inputs, held_out, split)
    train_c = embedder(splits.train.sources(train_corruption))
    valid_c = embedder(splits.valid.sources(CLEAN))
    scale = Standardizer.of(train_c)
    head = Head(task, train_c.shape[-1])
    sight = splits.sight(embedder, inputs, settings, lambda x: Standardizer.of(x)(x))
    judge = make_scorer(head, sight)
    fitted = fit(
        judge,
        judge.inputs(splits.train, scale(train_c)),
        judge.inputs(splits.valid, scale(valid_c)),
        settings.seed,
    )
    notes = {
        "training examples": len(splits.train.labelled),
        "training items are corrupt": str(train_corruption) or "no",
        "penalty of the head": fitted.penalty,
    }
    lpm = settings.objectives.lpm
    asked = pretraining.tasks(batch_spec(inference_settings(settings), 1))
    learned = "lpm" in asked and lpm.weight  # what its energy says otherwise means nothing
    examination = TaskEvaluation(
        "probe",
        settings,
        checkpoint,
        embedder,
        judge,
        fitted.params,
        splits,
        scale,
        notes,
        train_corruption,
        lpm.norm if learned else "",
    )
    yield from map(examination.report, corruptions)
