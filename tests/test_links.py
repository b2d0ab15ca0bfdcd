from collections import Counter

import numpy as np
import pytest

from k3m_jax.data.store.value_vocabulary import (
    UNKNOWN,
    ValueVocabulary,
    sample_other_items,
    sample_query,
)

FIRST = {"colour": {"red": 5, "Blue": 2, "green": 0}, "brand": {"x": 1}}
SECOND = {"Colour": {"blue": 1, "RED": 1}, "fibre": {"wool": 3, "silk": 3}}


@pytest.fixture(scope="module")
def table():
    return ValueVocabulary.merge([FIRST, SECOND])


def test_spellings_are_merged_and_values_of_a_property_are_adjacent_by_count(table):
    assert table.pairs == (
        ("brand", "x"),
        ("colour", "red"),
        ("colour", "Blue"),
        ("colour", "green"),
        ("fibre", "silk"),
        ("fibre", "wool"),
    )
    assert table.counts.tolist() == [1, 6, 3, 0, 3, 3]
    assert len(table) == 6
    assert table.range("COLOUR") == (1, 4)
    assert table.seen("colour") == (1, 3)
    assert table.seen("weight") == (0, 0)


def test_an_id_is_found_by_any_spelling(table):
    assert table.id(" Colour", "blue") == table.id("colour", "ＢＬＵＥ") == 2
    assert table.id("colour", "mauve") == table.id("weight", "red") == UNKNOWN


def test_the_order_of_sources_does_not_matter(table):
    assert ValueVocabulary.merge([SECOND, FIRST]).pairs == table.pairs


def wide_table(values=30):
    return ValueVocabulary.merge([{"p": {f"v{i}": 1 for i in range(values)}, "q": {"w": 1}}])


def test_false_values_are_false_distinct_of_the_same_property_and_uniform():
    table = wide_table()
    start, end = table.range("p")
    triples = [table.id("p", f"v{i}") for i in (0, 7, 29)] + [table.id("q", "w")]
    counts = Counter()
    for seed in range(4000):
        question = sample_query(triples, table, 4, np.random.default_rng(seed))
        if table.pairs[question.target][0] == "q":
            assert question.false == ()  # q has one value: nothing is false
            continue
        assert question.known == tuple(sorted(triples[:3]))
        assert len(set(question.false)) == 4
        assert all(start <= f < end for f in question.false)
        assert not set(question.false) & set(question.known)
        counts.update(question.false)
    assert len(counts) == 27
    assert min(counts.values()) > 0.75 * max(counts.values())


def test_every_triple_is_asked_for_equally_often():
    table = wide_table(4)
    asked = Counter(
        sample_query([0, 1, 2, 4], table, 0, np.random.default_rng(seed)).target
        for seed in range(4000)
    )
    assert set(asked) == {0, 1, 2, 4}
    assert min(asked.values()) > 900


def test_few_values_give_few_false_ones(table):
    question = sample_query([table.id("colour", "red")], table, 4, np.random.default_rng(0))
    # Blue alone: no item of train is green.
    assert question.false == (table.id("colour", "blue"),)


def test_a_value_that_only_held_out_items_have_can_be_asked_for(table):
    green = table.id("colour", "green")
    question = sample_query([green], table, 4, np.random.default_rng(0))
    assert question.target == green
    assert set(question.false) == {table.id("colour", "red"), table.id("colour", "blue")}


def test_an_item_without_known_triples_is_not_asked(table):
    assert sample_query([], table, 4, np.random.default_rng(0)) is None
    assert sample_query([UNKNOWN, UNKNOWN], table, 4, np.random.default_rng(0)) is None
    assert sample_query([UNKNOWN, 1], table, 4, np.random.default_rng(0)).target == 1


def test_other_items_are_of_other_products_and_lack_the_value():
    targets = [1, 1, 2, UNKNOWN, 3]
    facts = [frozenset({1}), frozenset({1, 2}), frozenset({2}), frozenset(), None]
    products = ["a", "a", "b", "c", ""]
    drawn = [set() for _ in targets]
    for seed in range(100):
        others = sample_other_items(targets, facts, products, 1, np.random.default_rng(seed))
        for row, found in enumerate(others):
            assert len(found) <= 1
            drawn[row].update(found)
    # Row 1 has pair 2 as well, so it is no negative of row 2; row 3 asks nothing, row 4 is padding.
    assert drawn == [{2, 3}, {2, 3}, {0, 3}, set(), {0, 1, 2, 3}]


def test_a_group_of_one_has_no_other_items():
    assert sample_other_items([1], [frozenset({1})], ["a"], 3, np.random.default_rng(0)) == [[]]


def test_several_other_items_are_distinct():
    facts = [frozenset({i}) for i in range(4)]
    others = sample_other_items([0, 1, 2, 3], facts, list("abcd"), 3, np.random.default_rng(0))
    assert [sorted(o) for o in others] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
