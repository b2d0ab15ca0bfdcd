"""Candidates of questions, and the ranking of the true values, against their definitions."""

import types

import numpy as np
import pytest

from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.metrics import Bootstrap
from k3m_jax.settings import Task
from k3m_jax.tasks.base import TaskRow, TaskSplit
from k3m_jax.tasks.candidates import Candidates
from k3m_jax.tasks.questions import CANDIDATES, Questions
from k3m_jax.training.task_network import Head
from tests import products as made

COLOURS = {f"c{i:02}": 30 - i for i in range(30)}
SIZES = {f"s{i:03}": 1 for i in range(120)}


@pytest.fixture(scope="module")
def vocabulary():
    return ValueVocabulary.merge(
        [{"colour": COLOURS, "size": SIZES, "made of": {"c01": 1, "oak": 2}}]
    )


def row_of(vocabulary, item, name, *values):
    """A question about one of an item's true values, the last."""
    known = tuple(vocabulary.id(name, value) for value in values)
    about = ("abc"[item], "pqr"[item], "shop")
    return TaskRow(item, *about, (), frozenset({name}), name, label=known[-1], known=known)


def scorer_of(vocabulary, *splits, length=12):
    lengths = types.SimpleNamespace(candidate=length)
    embedder = types.SimpleNamespace(
        network=types.SimpleNamespace(settings=types.SimpleNamespace(lengths=lengths)),
        tokenizer=made.tokenizer(),
        candidates=lambda texts: 2 * (np.zeros((len(texts), 4), np.float32),),
    )
    return Questions(
        Head(Task(name="questions"), width=4), embedder, vocabulary, splits, np.asarray
    )


def split_of(rows):
    split = object.__new__(TaskSplit)
    split.examples = [(row,) for row in rows]
    return split


@pytest.fixture(scope="module")
def rows(vocabulary):
    """An item of two colours, one of one, and one of a size."""
    values = [("colour", "c00", "c03"), ("colour", "c05"), ("size", "s040")]
    return [row_of(vocabulary, item, *each) for item, each in enumerate(values)]


@pytest.fixture(scope="module")
def measured(vocabulary, rows):
    """Of these questions: what scores them, and their split."""
    split = split_of(rows)
    return scorer_of(vocabulary, split, split_of(rows[1:2]), split), split


@pytest.fixture(scope="module")
def found(measured):
    scorer, split = measured
    return scorer.candidates[split]


def test_a_property_is_filled_up_with_values_of_others(found):
    block = found.blocks[0]
    assert {name for name, _ in block.pairs} == {"colour"}
    assert [v for _, v in block.pairs[:30]] == list(COLOURS)
    others = [v for _, v in block.pairs[30:]]
    assert len(others) == CANDIDATES - 1 - (30 - 2)
    assert not set(others) & set(COLOURS)  # c01 is a colour whatever else has it
    assert set(others) <= {*SIZES, "oak"}
    assert len(found.blocks[2].pairs) == 120


def test_a_hundred_candidates_the_propertys_own_first(found, rows):
    for row, block, sample, target in zip(
        rows, found.blocks, found.sample, found.target, strict=True
    ):
        assert len(sample) == len({*sample}) == CANDIDATES - 1
        assert not {*block.ids[sample]} & {*row.known}
        own = (block.ids != UNKNOWN) & ~np.isin(block.ids, row.known)
        assert (block.ids[sample] != UNKNOWN).sum() == min(99, own.sum())
        assert block.ids[target] == row.label


def values(measured, scores):
    scorer, split = measured
    statistics = scorer.statistics(split, scores, 0.0)
    return {k: Bootstrap(list("pqr")).value(x) for k, x in statistics.items()}


def test_metrics_are_those_of_the_ranks_written_out(measured, found, rows):
    lengths = [len(block.ids) for block in found.blocks]
    scores = np.random.default_rng(0).permutation(sum(lengths)).astype(float)
    ranks, hits = [], {k: [] for k in (1, 5, 10)}
    for q, (row, of_query) in enumerate(zip(rows, found.split(scores), strict=True)):
        ids = found.blocks[q].ids
        ranks.append(1 + (of_query[found.sample[q]] > of_query[found.target[q]]).sum())
        own = np.flatnonzero(ids != UNKNOWN)
        order = own[np.argsort(-of_query[own])]
        for k in hits:
            hits[k].append(len({*ids[order[:k]]} & {*row.known}) / min(k, len(row.known)))
    wanted = {f"rank@{k}": np.mean(np.array(ranks) <= k) for k in hits}
    wanted["mrr"] = np.mean(1 / np.array(ranks))
    wanted |= {f"completion_hits@{k}": np.mean(x) for k, x in hits.items()}
    assert values(measured, scores) == pytest.approx(wanted)


def test_equal_scores_are_a_guess(measured, found):
    alike = values(measured, np.zeros(sum(len(block.ids) for block in found.blocks)))
    assert alike["rank@10"] == pytest.approx(10 / CANDIDATES)
    shares = [2 * 5 / 30 / 2, 5 / 30, 5 / 120]
    assert alike["completion_hits@5"] == pytest.approx(np.mean(shares))


def test_candidates_depend_on_the_item_alone(vocabulary, measured, found, rows):
    """Neither on other questions of a split nor on an item's place in it."""
    scorer, split = measured
    (alone,) = (each for each in scorer.candidates if each is not split)
    assert np.array_equal(scorer.candidates[alone].sample[0], found.sample[1])
    moved = split_of([row._replace(item=row.item + 7) for row in rows])
    samples = scorer_of(vocabulary, moved).candidates[moved].sample
    for sample, expected in zip(samples, found.sample, strict=True):
        assert np.array_equal(sample, expected)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_in_chunks_are_those_of_each_pair(vocabulary, rows, size):
    """Values that are cut to the same text share a score, and a call has always one size."""
    labels, known = [row.label for row in rows], [row.known for row in rows]
    candidates = Candidates(vocabulary, labels, known, made.tokenizer(), 5)
    assert len(candidates.texts) < sum(len(block.ids) for block in candidates.blocks[1:])

    def score(queries, texts):
        assert len(queries) == len(texts) == size
        return 1000 * queries + texts

    found = list(candidates.scores(score, size))
    assert len(found) == 3
    for q, (block, of_query) in enumerate(zip(candidates.blocks, found, strict=True)):
        assert of_query.tolist() == (1000 * q + block.text).tolist()
