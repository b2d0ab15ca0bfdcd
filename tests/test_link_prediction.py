"""LPM: the queried triple, what is false of an item, that the answer is hidden, and the loss."""

import dataclasses
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from k3m_jax.data.input.batch import BatchLayout, PretrainingExample
from k3m_jax.data.store.value_vocabulary import (
    UNKNOWN,
    Query,
    ValueVocabulary,
    normalised,
)
from k3m_jax.objectives.link_prediction import LinkPrediction, LinkTarget, energy
from k3m_jax.settings import Lengths
from k3m_jax.settings import LinkPrediction as Options
from tests.products import collated, examples_of, inputs, memory_shards, products, record, tokenizer
from tests.tiny import TINY

RNG = np.random.default_rng(0)
VOCABULARY = ValueVocabulary.merge(
    [{"colour": {"red": 6, "blue": 3, "green": 0}, "brand": {"x": 1}, "fibre": {"wool": 3}}]
)
RED, BLUE, GREEN = (VOCABULARY.id("colour", value) for value in ("red", "blue", "green"))


def query(triples, vocabulary=VOCABULARY, negatives=4, seed=0):
    return vocabulary.sample_query(triples, negatives, np.random.default_rng(seed))


def test_triples_are_queried_evenly_and_false_values_are_false_distinct_and_uniform():
    vocabulary = ValueVocabulary.merge([{"p": {f"v{i}": 1 for i in range(30)}, "q": {"w": 1}}])
    start, end = vocabulary.range("p")
    triples = [vocabulary.id("p", f"v{i}") for i in (0, 7, 29)] + [vocabulary.id("q", "w")]
    targets, counts = Counter(), Counter()
    for seed in range(4000):
        found = query(triples, vocabulary, 4, seed)
        targets[found.target] += 1
        if vocabulary.pairs[found.target][0] == "q":
            assert found.false == ()  # q has one value: nothing is false
            continue
        assert found.known == tuple(sorted(triples[:3]))
        assert len(set(found.false)) == 4
        assert all(start <= f < end for f in found.false)
        assert not set(found.false) & set(found.known)
        counts.update(found.false)
    assert set(targets) == set(triples)
    assert min(targets.values()) > 900
    assert len(counts) == 27
    assert min(counts.values()) > 0.75 * max(counts.values())


@pytest.mark.parametrize(
    ("triples", "target", "false"),
    [
        ([RED], RED, {BLUE}),  # no training item is green
        ([GREEN], GREEN, {RED, BLUE}),  # only held-out items are
        ([UNKNOWN, RED], RED, {BLUE}),
    ],
)
def test_false_values_are_those_that_training_items_have(triples, target, false):
    found = query(triples)
    assert (found.target, set(found.false)) == (target, false)
    assert query([]) is query([UNKNOWN, UNKNOWN]) is None


def test_values_of_other_properties_are_none_of_the_queried_one():
    found = VOCABULARY.sample_other_property_values(RED, 9, np.random.default_rng(0))
    assert sorted(found) == [("colour", "wool"), ("colour", "x")]


def others_of(count, targets, facts, products, seed):
    """Rows of the group that serve as other products, of each row."""
    views = [types.SimpleNamespace(record=types.SimpleNamespace(product=p)) for p in products]
    queries = [None if target is None else Query(target, (), ()) for target in targets]
    links = [LinkTarget(q, None, frozenset(f)) for q, f in zip(queries, facts, strict=True)]
    examples = [PretrainingExample(v, {}, {"lpm": t}) for v, t in zip(views, links, strict=True)]
    shape = (len(targets) + 1, count)
    group = {"link_items": np.zeros(shape, int), "link_item_weights": np.zeros(shape)}
    objective = LinkPrediction(Options(negative_items=count), length=6, group=shape[0])
    objective.write_group(group, [*examples, None], (seed,))
    return [i[w > 0].tolist() for i, w in zip(*group.values(), strict=True)]


def test_other_items_are_of_other_products_and_lack_the_value():
    drawn = [set() for _ in range(5)]
    for seed in range(100):
        others = others_of(1, [1, 1, 2, None], [{1}, {1, 2}, {2}, {}], ["a", "a", "b", "c"], seed)
        for row, found in enumerate(others):
            assert len(found) <= 1
            drawn[row].update(found)
    # Row 1 has pair 2 as well, so it is no negative of row 2; row 3 has no query, row 4 is padding.
    assert drawn == [{2, 3}, {2, 3}, {0, 3}, set(), set()]
    others = others_of(3, range(4), [{i} for i in range(4)], "abcd", seed=0)
    assert [sorted(o) for o in others[:4]] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_other_items_of_a_batch_lie_in_the_rows_own_group():
    records = products(32)
    examples = examples_of(records, TINY)
    batch, checked = collated(examples, TINY), 0
    for row, example in enumerate(examples):
        others = batch["link_items"][row][batch["link_item_weights"][row] > 0]
        for other in others + row // 4 * 4:
            assert records[other].product != records[row].product
            assert example.targets["lpm"].query.target not in examples[other].targets["lpm"].facts
            checked += 1
    assert checked > 16


def test_values_not_visible_still_rule_an_item_out():
    # All of 9 colours are row 1's, of which the model sees at most X = 4.
    records = [record(1, [("colour", str(n)) for n in range(9)]), record(2, [("colour", "7")])]
    for seed in range(20):
        examples = [*examples_of(records, TINY, seed=seed), None, None]
        assert not collated(examples, TINY, seed)["link_item_weights"][1].any()


def test_the_arrays_of_evaluation():
    fibres = [("fibre", "silk"), ("fibre", "wool"), ("fibre", "silk ")]
    records = [record(1, fibres), record(2, []), *products(2)]
    vocabulary = inputs(memory_shards(records)).vocabulary
    examples = [*examples_of(records, TINY, training=False), None]
    layout = BatchLayout.of(TINY)
    (lpm,) = (o for o in layout.objectives if o.name == "lpm")
    arrays = lpm.evaluation_arrays(examples)
    silk, wool = vocabulary.id("fibre", "silk"), vocabulary.id("fibre", "wool")
    assert arrays["link_target"].dtype == arrays["link_known"].dtype == np.int32
    assert arrays["link_target"][0] in (silk, wool)
    assert arrays["link_target"][[1, 4]].tolist() == [-1, -1]
    assert set(arrays["link_known"][0].tolist()) - {-1} == {silk, wool}
    assert lpm.evaluation_arrays([None])["link_known"].shape == (1, 0)


# The answer is hidden.


def visits(records, count, **lengths):
    """`count` visits of each record: (record, target, text, vocabulary)."""
    settings = dataclasses.replace(TINY, lengths=Lengths(**lengths) if lengths else TINY.lengths)
    vocabulary = inputs(memory_shards(records)).vocabulary
    for seed in range(count):
        examples = examples_of(records, settings, vocabulary, seed=seed)
        for item, example in zip(records, examples, strict=True):
            text = tokenizer().decode(example.encoded["knowledge"].tokens)
            yield item, example.targets["lpm"], text, vocabulary


def test_the_answer_cannot_be_read_off_the_knowledge():
    """The queried pair is gone in every spelling; other values of its property stay."""
    wide = str.maketrans("0123456789", "０１２３４５６７８９")  # unknown to the tokenizer
    spellings = {
        n: [("fibre", f"{n}"), ("Fibre", f" {n} "), ("fibre", f"{n}".translate(wide))]
        for n in range(100, 140)
    }
    records = [
        record(n, [*triples, ("colour", "red"), ("FIBRE", "silk")])
        for n, triples in spellings.items()
    ]
    stayed = 0
    for item, target, text, vocabulary in visits(
        records, 5, title=8, knowledge=16, triples=8, candidate=6
    ):
        _, value = vocabulary.pairs[target.query.target]
        assert normalised(value) not in text.split()
        own = item.triples[0][1]
        if normalised(value) != own:
            assert text.split().count(own) == 2  # in both of the spellings that read alike
            stayed += 1
        else:
            assert "[UNK]" not in text
            assert "silk" in text
    assert stayed > 50


def test_an_answer_with_other_accents_cannot_be_read_off_the_knowledge_either():
    """The tokenizer drops accents, so that two values of the vocabulary have the same tokens."""
    records = [record(1, [("colour", "réd"), ("colour", "red"), ("fibre", "silk")])]
    queried = set()
    for _, target, text, vocabulary in visits(records, 60):
        name, value = vocabulary.pairs[target.query.target]
        queried.add(value)
        if name == "colour":
            assert "red" not in text
            assert "silk" in text
    assert {"réd", "red"} <= queried


def test_a_false_value_that_reads_like_a_true_one_is_no_negative():
    """Both are cut to the same tokens, so that nothing distinguishes them."""
    long = "red green blue black white grey pink"
    records = [record(n, [("colour", f"{long} {n}")]) for n in range(6)]
    records += [record(9, [("colour", "gold")])]
    counts = set()
    for item, target, _, _ in visits(records, 10):
        texts = target.candidates
        identities = [texts.identity(row) for row in range(len(texts))]
        assert identities[0] not in identities[1:]
        counts.add((item.triples[0][1] == "gold", len(texts)))
    assert {n for gold, n in counts if gold} == {3}  # the true one and two false ones
    assert {n for gold, n in counts if not gold} <= {1, 2}  # gold is the only other reading


def test_an_item_of_158_triples_shows_them_all_in_time():
    values = [str(n) for n in range(158)]
    settings = dataclasses.replace(TINY, lengths=Lengths(8, 32, 24, 6))
    item = record(0, [("colour", v) for v in values])
    vocabulary = inputs(memory_shards([item])).vocabulary
    shown, queried = set(), set()
    for seed in range(200):
        (example,) = examples_of([item], settings, vocabulary, seed=seed)
        text = example.encoded["knowledge"]
        assert len(text.tokens) <= 32
        shown |= {tokenizer().decode(text.tokens[slice(*span)]) for span in text.value_spans}
        queried.add(example.targets["lpm"].query.target)
    assert shown == set(values)
    assert len(queried) > 100


# The loss.


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_link_margin_equals_a_loop_over_pairs(norm):
    B, J, O, D, G = 6, 3, 2, 4, 3
    c = RNG.normal(size=(B, D)).astype(np.float32)
    p, v = RNG.normal(size=(2, B, J, D)).astype(np.float32)
    value_weights = RNG.integers(0, 2, (B, J - 1)).astype(np.float32)
    items = RNG.integers(0, G, (B, O)).astype(np.int32)
    item_weights = RNG.integers(0, 2, (B, O)).astype(np.float32)
    objective = LinkPrediction(Options(margin=0.7, norm=norm), length=6, group=G)
    product = types.SimpleNamespace(embedding=c)
    outputs = types.SimpleNamespace(product=product, link_properties=p, link_values=v)
    batch = {
        "link_value_weights": value_weights,
        "link_items": items,
        "link_item_weights": item_weights,
    }
    loss, right = objective.sums(outputs, batch, None).values()

    def by_hand(row, b, j):
        difference = (c[row] + p[b, j] - v[b, j]).astype(np.float64)
        return np.linalg.norm(difference, ord=1 if norm == "l1" else 2)

    expected, correct, weight = 0.0, 0, 0
    for b in range(B):
        positive = by_hand(b, b, 0)
        negatives = [by_hand(b, b, 1 + j) for j in np.flatnonzero(value_weights[b])]
        others = b // G * G + items[b, item_weights[b] > 0]
        negatives += [by_hand(row, b, 0) for row in others]
        expected += sum(max(0.0, positive - n + 0.7) for n in negatives)
        correct += sum(positive < n for n in negatives)
        weight += len(negatives)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert (right.total, loss.weight) == (correct, weight)


def test_the_energy_of_a_perfect_triple_has_a_finite_gradient():
    c, p, v = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0]), jnp.array([1.5, 2.0])
    value, gradient = jax.value_and_grad(energy)(c, p, v, "l2")
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
