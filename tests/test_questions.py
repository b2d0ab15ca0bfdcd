"""Candidates of questions, and the ranking of the true values, beside what they say in words."""

import numpy as np
import pytest

from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation.questions import CANDIDATES, CandidateIndex, CandidateSet
from k3m_jax.metrics.bootstrap import Resampling
from k3m_jax.tasks.examples import TaskDataset, TaskRow

COLOURS = {f"c{i:02}": 30 - i for i in range(30)}
SIZES = {f"s{i:03}": 1 for i in range(120)}


@pytest.fixture(scope="module")
def table():
    return ValueVocabulary.merge(
        [{"colour": COLOURS, "size": SIZES, "made of": {"c01": 1, "oak": 2}}]
    )


@pytest.fixture(scope="module")
def examples(table):
    """An item of two colours, one of one, and one of a size."""
    known = [(0, 3), (5,), (40,)]
    known = [
        tuple(table.range(n)[0] + i for i in ids)
        for n, ids in zip(("colour", "colour", "size"), known, strict=True)
    ]
    rows = [
        TaskRow(i, (), frozenset(), asked=table.pairs[k[0]][0], label=k[-1])
        for i, k in enumerate(known)
    ]
    return TaskDataset(rows, ["a", "b", "c"], ["p", "q", "r"], ["shop"] * 3, known, {})


@pytest.fixture(scope="module")
def texts(table, examples):
    return CandidateSet(table, examples.known)


@pytest.fixture(scope="module")
def places(examples, texts):
    return CandidateIndex.of([examples], texts)


def of_question(places, q):
    return slice(places.offsets[q], places.offsets[q + 1])


def test_a_property_is_filled_up_with_values_of_others(table, texts, examples):
    first, end = texts.block(examples.known[0])
    block = texts.pairs[first:end]
    assert {name for name, _ in block} == {"colour"}
    assert [v for _, v in block[:30]] == list(COLOURS)
    others = [v for _, v in block[30:]]
    assert len(others) == CANDIDATES - 1 - (30 - 2)
    assert not set(others) & set(COLOURS)  # c01 is a colour whatever else has it
    assert set(others) <= {*SIZES, "oak"}
    first, end = texts.block(examples.known[2])
    assert end - first == 120


def test_a_hundred_candidates_the_propertys_own_first(places, texts, examples):
    for q, (known, row) in enumerate(zip(examples.known, examples.rows, strict=True)):
        ids = texts.ids[places.rows[of_question(places, q)]]
        ranked = ids[places.ranked[of_question(places, q)]]
        assert len(ranked) == CANDIDATES
        assert set(ranked) & set(known) == {row.label}
        own = [i for i in ids if i >= 0 and i not in known]
        assert len([i for i in ranked if i >= 0 and i != row.label]) == min(99, len(own))
        assert texts.ids[places.rows[places.target[q]]] == row.label


def test_metrics_are_those_of_the_ranks_written_out(places, texts, examples):
    scores = np.random.default_rng(0).permutation(len(places.rows)).astype(float)
    ranks, hits = [], {k: [] for k in (1, 5, 10)}
    for q, known in enumerate(examples.known):
        block = of_question(places, q)
        true = scores[places.target[q]]
        ranks.append(1 + (scores[block][places.ranked[block]] > true).sum())
        own = np.flatnonzero(places.own[block])
        order = own[np.argsort(-scores[block][own])]
        for k in hits:
            best = texts.ids[places.rows[block][order[:k]]]
            hits[k].append(len({*best} & {*known}) / min(k, len(known)))
    wanted = {f"rank@{k}": np.mean(np.array(ranks) <= k) for k in hits}
    wanted["mrr"] = np.mean(1 / np.array(ranks))
    wanted |= {f"completion_hits@{k}": np.mean(x) for k, x in hits.items()}
    sampling = Resampling(examples.products)
    found = {name: sampling.value(x) for name, x in places.statistics(scores).items()}
    assert found == pytest.approx(wanted)


def test_scores_all_alike_get_what_guessing_gets(places):
    sampling = Resampling(["p", "q", "r"])
    found = places.statistics(np.zeros(len(places.rows)))
    assert sampling.value(found["rank@10"]) == pytest.approx(10 / CANDIDATES)
    shares = [2 * 5 / 30 / 2, 5 / 30, 5 / 120]
    assert sampling.value(found["completion_hits@5"]) == pytest.approx(np.mean(shares))


def test_other_items_do_not_change_a_questions_candidates(table, texts, examples, places):
    alone = TaskDataset(examples.rows[1:2], ["b"], ["q"], ["shop"], examples.known[1:2], {})
    found = CandidateIndex.of([alone], texts)
    assert np.array_equal(found.ranked, places.ranked[of_question(places, 1)])


def test_nor_does_its_items_place_in_the_split(examples, texts, places):
    """Where more false values than are asked are left, the chance that says which is the item's."""
    moved = examples._replace(rows=[row._replace(item=row.item + 7) for row in examples.rows])
    assert not places.ranked[of_question(places, 2)].all()
    assert np.array_equal(CandidateIndex.of([moved], texts).ranked, places.ranked)
