import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest
from tiny import TINY, tiny_settings

from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation import link_ranking
from k3m_jax.evaluation.link_ranking import LinkRanking, Questions
from k3m_jax.metrics.ranking import hits_at, reciprocal_rank
from k3m_jax.modalities.knowledge import candidates
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.shardings import unbox
from k3m_jax.settings import Mesh

COLOURS = ("red", "blue", "green", "teal", "pink", "grey")
# The last two are one text to the model: they differ only behind the cut at L = 6 tokens.
SIZES = ("s", "m", "a b c d e f", "a b c d e g")
TABLE = ValueVocabulary.merge(
    [
        {
            "colour": dict(zip(COLOURS, (5, 3, 3, 3, 1, 0), strict=True)),
            "size": dict(zip(SIZES, (4, 4, 2, 0), strict=True)),
            "one": {"only": 7},
        }
    ]
)


def ids(*pairs):
    found = [TABLE.id(name, value) for name, value in pairs]
    assert -1 not in found
    return found


def questions(rows):
    """Rows of (property, true values, the asked one first), or None for nothing asked."""
    known = np.full((len(rows), 6), -1)
    targets = np.full(len(rows), -1)
    for i, row in enumerate(rows):
        if row:
            values = ids(*((row[0], value) for value in row[1]))
            targets[i], known[i, : len(values)] = values[0], values
    return Questions(targets, known)


QUESTIONS = questions(
    [
        ("colour", ["teal"]),
        None,
        ("colour", ["grey", "red", "pink"]),
        ("size", ["a b c d e f"]),
        ("size", ["a b c d e f", "a b c d e g"]),
        ("one", ["only"]),
        ("colour", COLOURS),
        ("size", ["s", "a b c d e f"]),
    ]
)
ASKED = [0, 2, 3, 4, 7]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(count_words([" ".join(pair) for pair in TABLE.pairs] * 2), 60, folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def network():
    return Network(tiny_settings())


@pytest.fixture(scope="module")
def params(network):
    rng = np.random.default_rng(0)
    shapes = unbox(jax.eval_shape(network.init_params, jax.random.key(0)))
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def encoded(network, params, tokenizer):
    """p, v [pairs, D] of the whole table."""
    texts = candidates(TABLE.pairs, tokenizer, network.settings.lengths.candidate)
    encode = jax.jit(network.encode_candidates)
    return [
        np.asarray(x)
        for x in encode(params, texts.tokens, texts.mask, texts.property_spans, texts.value_spans)
    ]


@pytest.fixture(scope="module")
def ranking(network, tokenizer):
    return make_ranking(network, tokenizer)


def make_ranking(network, tokenizer, mesh=None, asked=QUESTIONS):
    return LinkRanking(network, make_mesh(mesh or Mesh(data=1)), TABLE, tokenizer, asked)


def embeddings(seed=0, items=8):
    width = TINY.model.text.width
    return np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)


def literal_ranks(scores, item):
    """Every rank that the true value may take, by a loop over all values of the property."""
    target = QUESTIONS.targets[item]
    known = set(QUESTIONS.known[item])
    start, end = TABLE.range(TABLE.pairs[target][0])
    rivals = [scores[i] for i in range(start, end) if i not in known]
    better = sum(score < scores[target] for score in rivals)
    tied = sum(score == scores[target] for score in rivals)
    return np.arange(better + 1, better + tied + 2)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_equals_a_literal_loop(params, encoded, tokenizer, norm):
    objectives = dataclasses.replace(
        TINY.objectives, lpm=dataclasses.replace(TINY.objectives.lpm, norm=norm)
    )
    ranking = make_ranking(Network(tiny_settings(objectives=objectives)), tokenizer)
    assert ranking.items.tolist() == ASKED
    assert ranking.without_rival == 2  # a property of one value; an item that has all values
    c, (p, v) = embeddings(), encoded
    found = ranking(params, c)
    # Rounded, so that two computations of one energy are equal.
    energies = np.linalg.norm(c[:, None] + p - v, 2 if norm == "l2" else 1, axis=-1).round(4)
    expected = [literal_ranks(energies[item], item) for item in ASKED]
    assert any(len(ranks) == 2 for ranks in expected)  # the two values that read alike do tie
    np.testing.assert_allclose(
        reciprocal_rank(found), [np.mean(1 / ranks) for ranks in expected], rtol=1e-12
    )
    np.testing.assert_allclose(hits_at(1, found), [np.mean(ranks <= 1) for ranks in expected])


def test_a_perfect_embedding_ranks_first(params, encoded, ranking):
    p, v = encoded
    assert (ranking(params, (v - p)[QUESTIONS.targets]).better == 0).all()


def test_chunks_and_devices_change_nothing(network, params, tokenizer, ranking, monkeypatch):
    c = embeddings()
    whole = ranking(params, c)
    monkeypatch.setattr(link_ranking, "CANDIDATES", 3)
    monkeypatch.setattr(link_ranking, "PAIRS", 4)
    for mesh in (Mesh(data=1), Mesh(data=4, fsdp=2)):
        pieces = make_ranking(network, tokenizer, mesh)(params, c)
        np.testing.assert_array_equal(pieces.better, whole.better)
        np.testing.assert_array_equal(pieces.tied, whole.tied)


def test_an_answer_without_meaning_is_a_guess(params, ranking):
    rivals = np.array([5, 3, 3, 2, 2])
    for value in (0.0, np.nan):
        meaningless = jax.tree.map(lambda x, value=value: np.full_like(x, value), params)
        found = ranking(meaningless, np.zeros_like(embeddings()))
        np.testing.assert_allclose(hits_at(1, found), 1 / (rivals + 1))
        assert ranking._energy._cache_size() == ranking._encode._cache_size() == 1


def test_the_majority_answers_the_same_questions(ranking):
    found = ranking.majority
    # colour teal (3): red is better, blue and green are tied; grey (0), red and pink known: three
    # are better. Sizes of count 4, 4, 2, 0: the third, then both cut ones known, then s.
    assert found.better.tolist() == [1, 3, 2, 2, 0]
    assert found.tied.tolist() == [2, 0, 0, 0, 1]


def test_what_watches_over_the_run_hears_of_every_part(network, params, tokenizer, monkeypatch):
    """Of many values each part takes long, and a process that is not heard of is taken for dead."""
    places = []
    monkeypatch.setattr(link_ranking.distributed, "at", places.append)
    monkeypatch.setattr(link_ranking, "CANDIDATES", 4)
    ranking = make_ranking(network, tokenizer)
    assert len(places) == 1 + 2  # the questions; two properties, whose values are written
    ranking(params, embeddings())
    chunks = Counter(places)["the values that links are ranked among, to be encoded"]
    assert chunks == 3  # of nine texts


@pytest.mark.parametrize("asked", [questions([None, None]), questions([("one", ["only"])])])
def test_nothing_to_rank(network, params, tokenizer, asked):
    ranking = make_ranking(network, tokenizer, asked=asked)
    found = ranking(params, embeddings(items=len(asked.targets)))
    assert found.better.shape == found.tied.shape == ranking.items.shape == (0,)
