"""Alignment: whether two items are one product."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax import metrics
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.settings import Task
from k3m_jax.tasks import base
from k3m_jax.tasks.base import Statistics, TaskSplit
from k3m_jax.tasks.trivial_baselines import SIDE, NaiveBayes, Scores, SeenSplit


class AlignmentObjective(base.TaskObjective):
    """Cross-entropy of pairs, labelled 0 or 1, of logits [I]."""

    @staticmethod
    def losses(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = optax.sigmoid_binary_cross_entropy(outputs, labels.astype(jnp.float32))
        return loss, (outputs > 0) == (labels > 0)


class Alignment(base.DownstreamTask):
    """F1 at the threshold that is best on validation pairs, and AUC, of scores [I]."""

    name = "alignment"
    rows_per_example = 2  # of which the first bears the label
    needs = "labelled pairs (align_pairs.jsonl, docs/data.md)"
    needs_threshold = True
    objective = AlignmentObjective

    @classmethod
    def examples(
        cls, task: Task, shards: ShardSet, split: str, vocabulary: ValueVocabulary
    ) -> base.Examples:
        shared = set(task.first_shown) & set(task.second_shown)
        texts = shared - {"image"}
        pairs = [pair for pair in shards.pairs if pair.split == split]
        paired = {item for pair in pairs for item in (pair.a, pair.b)}
        items = enumerate(shards.facts(split))
        places = {record.id: (index, record) for index, record in items if record.id in paired}
        for pair in pairs:
            if task.pair_kinds and pair.kind not in task.pair_kinds:
                yield "of another kind"
                continue
            a, b = places[pair.a], places[pair.b]
            if reason := base.why_left_out(task, a[1]) or base.why_left_out(task, b[1]):
                yield reason
            elif pair.a == pair.b and (texts or (shared and pair.a_image == pair.b_image)):
                yield "of one item that would show the same twice"
            else:
                first, second = base.TaskRow.of(task, *a), base.TaskRow.of(task, *b)
                yield (
                    first._replace(shown=task.first_shown, view=pair.a_image, label=pair.label),
                    second._replace(shown=task.second_shown, view=pair.b_image),
                )

    def statistics(self, split: TaskSplit, scores: np.ndarray, threshold: float) -> Statistics:
        """`f1`, `auc` and, of several catalogs, `auc_within_catalogue`.

        Where these differ in how many pairs are one product, recognising the catalog lifts `auc`.
        """
        labels = split.labels == 1
        auc = functools.partial(metrics.auc, scores, labels)
        found = {"f1": functools.partial(metrics.f1, scores >= threshold, labels), "auc": auc}
        catalogs = np.array([first.catalog for first, _ in split.examples])
        if len(set(catalogs)) > 1:
            found["auc_within_catalogue"] = functools.partial(auc, groups=catalogs)
        return found

    def trivial_baselines(self, train: SeenSplit, measured: SeenSplit) -> Scores:
        """By whether both titles or one have a word, and by the distance of the pictures.

        A pair that lacks a picture is as far apart as possible.
        """
        bayes = NaiveBayes(_words_of_pairs(train.words), train.split.labels, 2)
        by_title = np.stack(list(map(bayes, _words_of_pairs(measured.words))))
        distance = np.linalg.norm(measured.pixels[::2] - measured.pixels[1::2], axis=1)
        near = -np.where(np.isnan(distance), np.sqrt(SIDE**2 * 3), distance)
        return np.zeros(len(distance)), by_title[:, 1] - by_title[:, 0], near


def _words_of_pairs(titles: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    pairs = [(set(a), set(b)) for a, b in zip(titles[::2], titles[1::2], strict=True)]
    return [
        (*(f"both {w}" for w in sorted(a & b)), *(f"one {w}" for w in sorted(a ^ b)))
        for a, b in pairs
    ]
