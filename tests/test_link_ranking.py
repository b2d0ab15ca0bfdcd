import dataclasses
from collections import Counter
from typing import NamedTuple

import jax
import numpy as np
import pytest
from tiny import TINY, tiny_settings

from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.evaluation import embedding, evaluator
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.evaluator import LinkRanking
from k3m_jax.metrics import hits_at, reciprocal_rank
from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.model.network import Network
from k3m_jax.objectives.link_prediction import LinkPrediction
from k3m_jax.parallel.mesh import make_mesh
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


class Queries(NamedTuple):
    """Ids of the queried value and of all true values of its property, by item."""

    targets: np.ndarray
    known: list[np.ndarray]


def queries(rows):
    """Rows of (property, true values, the queried one first), or None for no query."""
    known = [ids(*((row[0], value) for value in row[1])) if row else [] for row in rows]
    return Queries(np.array([(found or [-1])[0] for found in known]), list(map(np.array, known)))


QUERIES = queries(
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
QUERIED = [0, 2, 3, 4, 7]


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
    shapes = jax.eval_shape(network.init_params, jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def encoded(network, params, tokenizer):
    """p, v [pairs, D] of the whole table."""
    length = network.settings.lengths.candidate
    texts = CandidateTexts.write(TABLE.pairs, tokenizer, length)
    encode = jax.jit(network.encode_candidates)
    return [np.asarray(x) for x in encode(params, vars(texts))]


@pytest.fixture(scope="module")
def ranking(network, tokenizer):
    return make_ranking(network, tokenizer)


def make_ranking(network, tokenizer, mesh=None, queries=QUERIES):
    embedder = Embedder(network, make_mesh(mesh or Mesh(data=1)), tokenizer)
    objective = LinkPrediction.from_settings(network.settings)
    return LinkRanking(embedder, objective, TABLE, *queries)


def embeddings(seed=0, items=8):
    width = TINY.model.text.width
    return np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)


def literal_ranks(scores, item):
    """Every rank that the true value may take, by a loop over all values of the property."""
    target = QUERIES.targets[item]
    known = set(QUERIES.known[item])
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
    assert ranking.items.tolist() == QUERIED
    assert ranking.trivial_links_skipped == 2  # one value; all values are true
    c, (p, v) = embeddings(), encoded
    found = ranking(params, c)
    # Rounded, so that two computations of one energy are equal.
    energies = np.linalg.norm(c[:, None] + p - v, 2 if norm == "l2" else 1, axis=-1).round(4)
    expected = [literal_ranks(energies[item], item) for item in QUERIED]
    assert any(len(ranks) == 2 for ranks in expected)  # the two values that read alike do tie
    np.testing.assert_allclose(
        reciprocal_rank(found), [np.mean(1 / ranks) for ranks in expected], rtol=1e-12
    )
    np.testing.assert_allclose(hits_at(1, found), [np.mean(ranks <= 1) for ranks in expected])


def test_a_perfect_embedding_ranks_first(params, encoded, ranking):
    p, v = encoded
    assert (ranking(params, (v - p)[QUERIES.targets]).better == 0).all()


def test_chunks_and_devices_change_nothing(network, params, tokenizer, ranking, monkeypatch):
    c = embeddings()
    whole = ranking(params, c)
    monkeypatch.setattr(embedding, "CANDIDATES", 3)
    monkeypatch.setattr(evaluator, "PAIRS", 4)
    for mesh in (Mesh(data=1), Mesh(data=4, fsdp=2)):
        pieces = make_ranking(network, tokenizer, mesh)(params, c)
        np.testing.assert_array_equal(pieces.better, whole.better)
        np.testing.assert_array_equal(pieces.tied, whole.tied)


def test_equal_energies_are_a_guess(params, ranking):
    rivals = np.array([5, 3, 3, 2, 2])
    for value in (0.0, np.nan):
        meaningless = jax.tree.map(lambda x, value=value: np.full_like(x, value), params)
        found = ranking(meaningless, np.zeros_like(embeddings()))
        np.testing.assert_allclose(hits_at(1, found), 1 / (rivals + 1))
        assert ranking._score._cache_size() == ranking._embedder._encode._cache_size() == 1


def test_the_majority_answers_the_same_queries(ranking):
    found = ranking.majority
    # colour teal (3): red is better, blue and green are tied; grey (0), red and pink known: three
    # are better. Sizes of count 4, 4, 2, 0: the third, then both cut ones known, then s.
    assert found.better.tolist() == [1, 3, 2, 2, 0]
    assert found.tied.tolist() == [2, 0, 0, 0, 1]


def test_the_watchdog_gets_a_heartbeat_of_every_part(network, params, tokenizer, monkeypatch):
    """Of many values each part takes long, and a silent process is taken for dead."""
    places = []
    monkeypatch.setattr(evaluator.distributed, "heartbeat", places.append)
    monkeypatch.setattr(embedding, "CANDIDATES", 4)
    ranking = make_ranking(network, tokenizer)
    assert len(places) == 2  # properties, whose values are written
    ranking(params, embeddings())
    assert Counter(places)["the candidate values to encode"] == 3  # chunks of nine texts


@pytest.mark.parametrize("nothing", [[None, None], [("one", ["only"])]])
def test_nothing_to_rank(network, params, tokenizer, nothing):
    ranking = make_ranking(network, tokenizer, queries=queries(nothing))
    found = ranking(params, embeddings(items=len(nothing)))
    assert found.better.shape == found.tied.shape == ranking.items.shape == (0,)
