"""A model's embeddings put to a task: embedded, judged by a head, beside the floors."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.input.sources import validate_sources
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.task_report import Row, TaskReport
from k3m_jax.metrics.bootstrap import Resampling, Statistic
from k3m_jax.metrics.task_metrics import best_threshold
from k3m_jax.runs.task_scorers import CandidateEncoder, TaskScorer
from k3m_jax.settings import Corruption, Settings, Task, UserError
from k3m_jax.tasks.split import TaskSplit
from k3m_jax.tasks.trivial_baselines import RawFeatures

CLEAN = Corruption()
Scale = Callable[[np.ndarray], np.ndarray]


class Splits(NamedTuple):
    """What a head, its threshold and the floors are made from, and what is measured."""

    train: TaskSplit
    valid: TaskSplit
    asked: TaskSplit
    table: ValueVocabulary  # of the values of all of them

    @classmethod
    def of(
        cls,
        task: Task,
        settings: Settings,
        inputs: Inputs,
        held_out: Sequence[ShardSet],
        split: str,
    ) -> "Splits":
        """Opens the examples.

        Args:
          task: its classes are given.
          settings: of the run, resolved: name its splits, and what its pictures are like.
          inputs: the run's.
          held_out: data sets to measure on; () are the run's own.
          split: of these, to measure on.

        Raises:
          UserError: what `Asked.of` raises, or pictures that are not like the run's.
        """
        # Or the model would take them for absent.
        validate_sources(settings, (*inputs.shard_sets, *held_out))
        data, table = settings.data, inputs.table
        if held_out:
            own = [shards.values for shards in inputs.shard_sets]
            # Their values are candidates, too; how frequent a value is, training alone says.
            more = [{p: dict.fromkeys(v, 0) for p, v in s.values.items()} for s in held_out]
            table = ValueVocabulary.merge([*own, *more])
        train, valid = (
            TaskSplit.of(task, inputs.shard_sets, name, table)
            for name in (data.train_split, data.valid_split)
        )
        if not held_out and split == data.valid_split:
            return cls(train, valid, valid, table)
        return cls(
            train, valid, TaskSplit.of(task, held_out or inputs.shard_sets, split, table), table
        )

    def sight(
        self, embedder: Embedder, inputs: Inputs, settings: Settings, scale: Scale
    ) -> CandidateEncoder:
        """What a judge of questions needs of the model."""

        def encode(texts):
            return embedder.candidates(texts.write(inputs.tokenizer, settings.lengths.candidate))

        return CandidateEncoder((self.train, self.valid, self.asked), self.table, encode, scale)


class TaskEvaluation:
    """Of one head on one split, in as many settings as are wanted.

    Whatever is chosen by validation examples is chosen by those that nothing is wrong with.
    """

    def __init__(
        self,
        kind: str,
        settings: Settings,
        checkpoint: int,
        embedder: Embedder,
        judge: TaskScorer,
        params: Any,
        splits: Splits,
        scale: Scale,
        notes: Mapping[str, Any],
        train_corruption: Corruption = CLEAN,
        norm: str = "",
        floors: bool = True,
    ):
        """Chooses the thresholds, where metrics want them.

        Args:
          kind: of `TaskReport`.
          settings: of the run, its task the one that is judged.
          checkpoint: step of the parameters.
          embedder: of the model's parameters.
          judge: of the task's head.
          params: of the head.
          splits: the examples.
          scale: embeddings [N, D] -> what the head reads.
          notes: of `TaskReport`.
          train_corruption: of the items that the head learned from.
          norm: of link prediction's energy, where the model has learned it; "" leaves out what
            embeddings say without a head.
          floors: whether they are measured, too; they are the same for every model.

        Raises:
          UserError: of the validation examples, as `report`.
        """
        self._kind, self._settings, self._checkpoint = kind, settings, checkpoint
        self._embedder, self._judge, self._params = embedder, judge, params
        self._splits, self._scale, self._notes = splits, scale, dict(notes)
        self._train_corruption, self._with_floors = train_corruption, floors
        self._embedded: dict[str, np.ndarray] = {}
        self._sampling = Resampling(splits.asked.products)
        self._norm = norm
        self._thresholds = self._choose() if judge.needs_threshold else {}
        if judge.needs_threshold and splits.asked is splits.valid:
            self._notes["threshold"] = "chosen on these very pairs, so that F1 is flattered"

    def report(self, corruption: Corruption) -> TaskReport:
        """The measurement, the asked examples' items corrupt.

        Raises:
          UserError: the model's scores are not all finite.
        """
        asked = self._splits.asked
        products = set(asked.products)
        return TaskReport(
            kind=self._kind,
            task=self._settings.task.name,
            split=asked.split,
            corruption=str(corruption),
            checkpoint=self._checkpoint,
            rows=self._rows(corruption),
            examples=len(asked.products),
            products=len(products),
            known_products=len(products & self._splits.train.split_products),
            notes=self._notes,
            left_out=asked.left_out,
            unknown_classes=int((asked.labels == UNKNOWN).sum()),
        )

    def _rows(self, corruption: Corruption) -> tuple[Row, ...]:
        judge, asked = self._judge, self._splits.asked
        c = self.embeddings(corruption)
        scores = self._scores(asked, c, corruption)
        model, *others = (
            judge.statistics(asked, found, self._thresholds.get(name, 0.0))
            for name, found in scores.items()
        )
        beside = dict(zip(list(scores)[1:], others, strict=True))
        rows = [self._row(metric, metric, each, beside) for metric, each in model.items()]
        if self._norm:
            for called, statistics in judge.zero_shot_metrics(asked, c, self._norm).items():
                rows += [
                    self._row(f"{called} {metric}", metric, each, beside)
                    for metric, each in statistics.items()
                ]
        return tuple(rows)

    def embeddings(self, corruption: Corruption) -> np.ndarray:
        """Embeddings of the asked rows at any rate, from those of none and of all items corrupt.

        A rate decides which items are corrupt, and not how: a setting is embedded once.
        """
        clean = self._embed(CLEAN)
        if not corruption.rate:
            return clean
        corrupt = self._splits.asked.corrupted(corruption)
        whole = self._embed(dataclasses.replace(corruption, rate=1.0))
        return np.where(corrupt[:, None], whole, clean)

    def _embed(self, corruption: Corruption) -> np.ndarray:
        name = str(corruption)
        if name not in self._embedded:
            self._embedded[name] = self._embedder(self._splits.asked.sources(corruption))
        return self._embedded[name]

    @functools.cached_property
    def _known(self) -> RawFeatures:
        """What the floors learn from."""
        return self._splits.train.surface(self._train_corruption)

    def _scores(
        self, asked: TaskSplit, c: np.ndarray, corruption: Corruption
    ) -> dict[str, np.ndarray]:
        """Of the model on embeddings of all rows, and of the floors by their names.

        Numbers alone: metrics would rank NaN somewhere, and it might look like an answer.
        """
        scores = self._judge.scores(self._params, asked, self._scale(c))
        if wrong := np.count_nonzero(~np.isfinite(scores)):
            raise UserError(
                f"split {asked.split!r}: {wrong:,} of {scores.size:,} scores of the model at step "
                f"{self._checkpoint} are not finite: measure another --checkpoint, or train again "
                "with a lower optimizer.learning_rate"
            )
        return {"model": scores, **self._floors(asked, corruption)}

    def _floors(self, asked: TaskSplit, corruption: Corruption) -> Mapping[str, np.ndarray]:
        if not self._with_floors:
            return {}
        seen = asked.surface(corruption)
        return self._judge.floors(self._splits.train, self._known, asked, seen)

    def _choose(self) -> dict[str, float]:
        """The thresholds of the model and of each floor."""
        valid = self._splits.valid
        scores = self._scores(valid, self._embedder(valid.sources(CLEAN)), CLEAN)
        labels = valid.labels == 1
        return {name: best_threshold(found, labels) for name, found in scores.items()}

    def _row(
        self,
        called: str,
        metric: str,
        model: Statistic,
        floors: Mapping[str, Mapping[str, Statistic]],
    ) -> Row:
        others = {name: statistics[metric] for name, statistics in floors.items()}
        return Row.of(called, self._sampling, model, others)
