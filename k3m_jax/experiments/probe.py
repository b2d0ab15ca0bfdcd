"""Probes: what a small head can read off the embeddings of a pretrained model.

The model stays as it is. Items are embedded once for each setting; the head is fitted once, to
training items, and measured in every setting.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from k3m_jax.data.pipeline import Inputs
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.experiments.asked import Asked, with_classes
from k3m_jax.experiments.examination import CLEAN, Examination
from k3m_jax.experiments.head_fitting import fit
from k3m_jax.experiments.judges import Sight, make_judge
from k3m_jax.model.task_heads import Head
from k3m_jax.settings import Corruption, Settings


class Standard(NamedTuple):
    """What makes training embeddings of mean 0 and variance 1: models differ in their scale."""

    mean: np.ndarray  # [D]
    spread: np.ndarray  # [D]

    @classmethod
    def of(cls, x: np.ndarray) -> "Standard":
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
) -> Iterator[TaskReport]:
    """Fits a head and measures it.

    Args:
      settings: of the run, resolved; `task` says what is asked.
      inputs: its data.
      embedder: of its parameters.
      checkpoint: their step.
      split: what is measured on; the head learns from `data.train_split`, and its penalty and
        threshold are chosen on `data.valid_split`.
      corruptions: of the measured items, one report for each.
      train_corruption: of the items that the head learns from; validation items are never spoilt.

    Raises:
      UserError: a split that there is not, or one that the task can't ask anything of.
    """
    data, shard_sets = settings.data, inputs.shard_sets
    task = with_classes(settings.task, shard_sets, data.train_split)
    splits = {
        name: Asked.of(task, shard_sets, name, inputs.table)
        for name in dict.fromkeys((data.train_split, data.valid_split, split))
    }
    train, valid, asked = (splits[s] for s in (data.train_split, data.valid_split, split))
    train_c = embedder(train.sources(train_corruption))
    scale = Standard.of(train_c)
    train_c, valid_c = scale(train_c), scale(embedder(valid.sources(CLEAN)))

    def encode(texts):
        return embedder.candidates(texts.write(inputs.tokenizer, settings.lengths.candidate))

    head = Head(task, train_c.shape[-1])
    sight = Sight(list(splits.values()), inputs.table, encode, lambda x: Standard.of(x)(x))
    judge = make_judge(head, sight)
    fitted = fit(judge, judge.inputs(train, train_c), judge.inputs(valid, valid_c), settings.seed)
    examination = Examination(settings, embedder, judge, train, valid, asked, train_corruption)
    products, known = set(asked.products), set(train.products)
    for corruption in corruptions:
        yield TaskReport(
            kind="probe",
            task=task.name,
            split=split,
            corruption=str(corruption),
            checkpoint=checkpoint,
            rows=examination.rows(fitted.params, valid_c, corruption, scale),
            examples=len(asked.products),
            products=len(products),
            known_products=len(products & known),
            notes={
                "training examples": len(train.products),
                "training items are spoilt": str(train_corruption) or "no",
                "penalty of the head": fitted.penalty,
            },
        )
