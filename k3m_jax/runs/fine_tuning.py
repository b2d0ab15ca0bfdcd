"""Fine-tuning runs: what they take over from a pretrained run, and how they are measured."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.evaluator import make_evaluator
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.metrics.task_metrics import best_threshold
from k3m_jax.model.network import Network, Params
from k3m_jax.model.task_network import TaskNetwork, split_params
from k3m_jax.runs.head_fitting import mean_losses
from k3m_jax.runs.task_evaluation import Splits, TaskEvaluation
from k3m_jax.runs.task_scorers import CandidateEncoder, make_scorer
from k3m_jax.settings import Corruption, Settings, UserError
from k3m_jax.tasks.split import TaskSplit
from k3m_jax.training.checkpoints import FOLDER, load_meta
from k3m_jax.training.loop import Evaluate


def with_pretrained_settings(settings: Settings) -> Settings:
    """A fine-tuning run's settings, with those of the run that `init_from` names, if it does.

    The model, the lengths and the picture are that run's, or its weights would not fit; so are the
    products and the vocabulary, unless others are named.

    Raises:
      UserError: together they contradict themselves, or there is no such folder to take from.
    """
    folder = settings.init_from
    if not folder or not (epath.Path(folder) / FOLDER).exists():
        if folder and not settings.data.sources and not epath.Path(folder).exists():
            raise UserError(f"init_from: there is no {folder}, and data.sources names no products")
        return settings
    run = Settings.from_config(load_meta(folder).settings)
    data, asked = settings.data, settings.objectives
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(run.model, vocabulary=0, dropout=settings.model.dropout),
        lengths=run.lengths,
        image=dataclasses.replace(run.image, classes=0),
        # What MOM predicts is part of the model's shape.
        objectives=dataclasses.replace(
            asked, mom=dataclasses.replace(asked.mom, variant=run.objectives.mom.variant)
        ),
        data=dataclasses.replace(
            data,
            sources=data.sources or run.data.sources,
            tokenizer=data.tokenizer or run.data.tokenizer,
        ),
    )
    settings.check()
    return settings


def evaluator_of(network: Network | TaskNetwork, mesh: Mesh, inputs: Inputs) -> Evaluate:
    """What a run is measured by while it learns."""
    if network.settings.task.downstream:
        return TaskEvaluator(network, mesh, inputs)
    return make_evaluator(network, mesh, inputs)


class TaskEvaluator:
    """Loss and metrics of a task on validation examples; `measure` has the floors, too."""

    def __init__(self, network: TaskNetwork, mesh: Mesh, inputs: Inputs):
        """Raises UserError where nothing can be asked of the validation split."""
        self._network, self._inputs, self._data = network, inputs, network.settings.data
        self._embedder = Embedder(network.backbone, mesh, inputs.tokenizer)
        task, shard_sets = network.settings.task, inputs.shard_sets
        self._valid = TaskSplit.of(task, shard_sets, self._data.valid_split, inputs.table)

    def __call__(self, params: Params) -> dict[str, float]:
        """`loss` and the metrics; alignment's threshold is the best there is for these pairs."""
        model, head = split_params(params)
        embedder, valid = self._embedder.at(model), self._valid
        length = self._network.settings.lengths.candidate

        def encode(texts):
            return embedder.candidates(texts.write(self._inputs.tokenizer, length))

        sight = CandidateEncoder((valid,), self._inputs.table, encode, np.asarray)
        judge = make_scorer(self._network.head, sight)
        c = embedder(valid.sources(self._data.valid_corruption))
        stacked = jax.tree.map(lambda x: x[None], head)
        scores = judge.scores(head, valid, c)
        threshold = best_threshold(scores, valid.labels == 1) if judge.needs_threshold else 0.0
        one = np.ones((1, len(valid.products)))
        metrics = {
            name: float(statistic(one)[0])
            for name, statistic in judge.statistics(valid, scores, threshold).items()
        }
        return {"loss": float(mean_losses(judge, stacked, judge.inputs(valid, c))[0]), **metrics}


def measure(
    network: TaskNetwork,
    mesh: Mesh,
    inputs: Inputs,
    params: Params,
    checkpoint: int,
    split: str,
    corruptions: Sequence[Corruption],
    held_out: Sequence[ShardSet] = (),
    floors: bool = True,
) -> Iterator[TaskReport]:
    """A fine-tuned run beside the floors.

    Args:
      network: of the run, its settings resolved.
      mesh: the devices.
      inputs: the run's data, which the floors and the threshold are made from.
      params: of the run.
      checkpoint: their step.
      split: to measure on.
      corruptions: of its items, one report for each.
      held_out: data sets that have the split; () are the run's own.
      floors: whether they are measured, too.

    Raises:
      UserError: a split that there is not, or one that the task can't ask anything of,
        pictures in `held_out` that are not like the run's, or scores that are not finite.
    """
    chosen = network.settings
    model, head = split_params(params)
    embedder = Embedder(network.backbone, mesh, inputs.tokenizer, model)
    splits = Splits.of(chosen.task, chosen, inputs, held_out, split)
    judge = make_scorer(network.head, splits.sight(embedder, inputs, chosen, np.asarray))
    trained = chosen.data.train_corruption
    notes = {
        "training examples": len(splits.train.labelled),
        "training items are corrupt": str(trained) or "no",
    }
    examination = TaskEvaluation(
        "evaluation",
        chosen,
        checkpoint,
        embedder,
        judge,
        head,
        splits,
        np.asarray,
        notes,
        trained,
        floors=floors,
    )
    yield from map(examination.report, corruptions)
