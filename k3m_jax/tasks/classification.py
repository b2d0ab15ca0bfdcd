"""Classification: the category of an item, or its value of a property."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np
import optax

from k3m_jax import metrics
from k3m_jax.data.records import Record
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary, normalised
from k3m_jax.settings import Task, UserError
from k3m_jax.tasks import base
from k3m_jax.tasks.base import Statistics, TaskSplit
from k3m_jax.tasks.fitted_baselines import Classify, fit_classifiers
from k3m_jax.tasks.trivial_baselines import NaiveBayes, Scores, SeenSplit, nearest

CATEGORY = "category"  # the label that is no property


class ClassificationObjective(base.TaskObjective):
    """Cross-entropy of the classes, of logits [I, classes]."""

    @staticmethod
    def losses(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return loss, outputs.argmax(-1) == labels


class Classification(base.DownstreamTask):
    """Accuracy and macro-F1 of scores [I, classes]; wrong for a class that training lacks."""

    name = "classification"
    has_classes = True
    needs = "items with one value of task.label"
    objective = ClassificationObjective

    @classmethod
    def examples(
        cls, task: Task, shards: ShardSet, split: str, vocabulary: ValueVocabulary
    ) -> base.Examples:
        hidden = hidden_properties(task)
        ids = {name: number for number, name in enumerate(task.classes)}
        for index, record in enumerate(shards.facts(split)):
            if reason := base.why_left_out(task, record):
                yield reason
            elif label := _label_of(task, record):
                if task.min_items > 1 and label not in ids:
                    yield f"of a class of fewer than {task.min_items} training items"
                    continue
                yield (base.TaskRow.of(task, index, record, hidden, label=ids.get(label, UNKNOWN)),)
            else:
                yield "without one class"

    @classmethod
    def resolve(cls, task: Task, shard_sets: Sequence[ShardSet], split: str) -> Task:
        """With the classes of training items, by frequency; raises UserError without any."""
        task = super().resolve(task, shard_sets, split)
        if task.classes:
            return task
        sources = [s.facts(split) for s in shard_sets if s.info.products.get(split)]
        items = (item for item in itertools.chain(*sources) if not base.why_left_out(task, item))
        counts = collections.Counter(_label_of(task, item) for item in items)
        del counts[""]
        if not counts:
            where = f" of the catalogues {', '.join(task.catalogues)}" if task.catalogues else ""
            raise UserError(f"task.label: no training item{where} has one value of {task.label!r}")
        if max(counts.values()) < (least := task.min_items):
            raise UserError(f"task.min_items {least}: no class has so many training items")
        classes = [name for name, count in counts.items() if count >= least]
        classes.sort(key=lambda name: (-counts[name], name))
        return dataclasses.replace(task, classes=tuple(classes))

    def statistics(self, split: TaskSplit, scores: np.ndarray, threshold: float) -> Statistics:
        predicted, labels = scores.argmax(1), split.labels
        right = (predicted == labels).astype(np.float64)
        return {
            "accuracy": functools.partial(metrics.mean, right),
            "macro_f1": functools.partial(metrics.macro_f1, predicted, labels),
        }

    def fit_classifiers(self, train: SeenSplit) -> Classify:
        """Of words, triples and pictures."""
        return fit_classifiers(train, len(self.head.task.classes))

    def trivial_baselines(self, train: SeenSplit, measured: SeenSplit) -> Scores:
        """The majority breaks the ties of the nearest picture, and stands where there is none."""
        known, classes = train.split.labelled, len(self.head.task.classes)
        labels = train.split.labels[known]
        counts = np.bincount(labels, minlength=classes).astype(np.float64)
        majority = np.tile(counts / (counts.sum() + 1), (len(measured.words), 1))
        bayes = NaiveBayes([train.words[i] for i in known], labels, classes)
        near = nearest(train.pixels[known], measured.pixels)
        by_picture, found = majority.copy(), np.flatnonzero(near >= 0)
        by_picture[found, labels[near[found]]] += 1
        return majority, np.stack(list(map(bayes, measured.words))), by_picture


def hidden_properties(task: Task) -> frozenset[str]:
    """What an item must not show, in addition to the task's own: the label, if a property."""
    return frozenset() if task.label == CATEGORY else frozenset({normalised(task.label)})


def _label_of(task: Task, record: Record) -> str:
    """The class of an item; "" where it has none, or several values of the property."""
    if task.label == CATEGORY:
        return record.category
    wanted = normalised(task.label)
    values = {normalised(value) for name, value in record.triples if normalised(name) == wanted}
    return values.pop() if len(values) == 1 else ""
