"""The (property, value) pairs of the data: spellings, order, counts."""

import pytest

from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary

FIRST = {"colour": {"red": 5, "Blue": 2, "green": 0}, "brand": {"x": 1}}
SECOND = {"Colour": {"blue": 1, "RED": 1}, "fibre": {"wool": 3, "silk": 3}}


@pytest.mark.parametrize("tables", [(FIRST, SECOND), (SECOND, FIRST)])
def test_spellings_are_merged_and_values_of_a_property_are_adjacent_by_count(tables):
    vocabulary = ValueVocabulary.merge(tables)
    assert vocabulary.pairs == (
        ("brand", "x"),
        ("colour", "red"),
        ("colour", "Blue"),
        ("colour", "green"),
        ("fibre", "silk"),
        ("fibre", "wool"),
    )
    assert vocabulary.counts.tolist() == [1, 6, 3, 0, 3, 3]
    assert len(vocabulary) == 6
    assert vocabulary.range("COLOUR") == (1, 4)
    assert vocabulary.id(" Colour", "blue") == vocabulary.id("colour", "ＢＬＵＥ") == 2
    assert vocabulary.id("colour", "mauve") == vocabulary.id("weight", "red") == UNKNOWN
