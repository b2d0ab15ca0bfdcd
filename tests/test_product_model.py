"""Product embedding as a library call."""

import functools
import logging

import jax
import numpy as np
import pytest
from exported import every_pattern, tiny_model, tiny_params
from products import jpeg, products, record, tokenizer

from k3m_jax.serving.product_model import ROWS, ProductModel
from k3m_jax.settings import UserError

# Rows of a batch do not see each other, but a matrix product of other shapes may add up in another
# order: float32 keeps about 7 digits, of embeddings that are about 1.
TOLERANCE = 1e-5


@functools.cache
def _model(network):
    return ProductModel(network, tiny_params(network), tokenizer())


def model(**how):
    return _model(tiny_model(**how))  # equal networks are one key


def test_vectors_stand_in_the_order_of_their_records():
    items = products(8)
    vectors = model().embed(items)
    assert vectors.shape == (8, 32)
    assert vectors.dtype == np.float32
    order = np.random.default_rng(0).permutation(7)
    shuffled = model().embed(items[i] for i in order)  # with a row of padding
    np.testing.assert_allclose(shuffled, vectors[order], atol=TOLERANCE)


def test_none_is_no_row():
    assert model().embed([]).shape == (0, 32)
    assert model().embed(iter(())).dtype == np.float32


@pytest.mark.slow
def test_nothing_is_compiled_twice_and_nothing_depends_on_the_number_of_rows(caplog):
    fresh = ProductModel(tiny_model(), tiny_params(tiny_model()), tokenizer())
    whole = fresh.embed(products(128))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for count in (1, 3, 64, 65, 2, 7, 8, 9, 63, 66, 127):
            np.testing.assert_allclose(fresh.embed(products(count)), whole[:count], atol=TOLERANCE)
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
    assert len(compiled) == len(ROWS) - 1, compiled  # the largest was there before


@pytest.mark.parametrize(
    ("dtype", "front_end"),
    [
        ("float32", "patches"),
        pytest.param("float32", "regions", marks=pytest.mark.slow),
        pytest.param("bfloat16", "patches", marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_absence(dtype, front_end):
    vectors = model(dtype=dtype, front_end=front_end).embed(every_pattern(front_end))
    assert np.isfinite(vectors).all()
    # Each of the eight says something else.
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1) + np.eye(8)
    assert apart.min() > 1e-4
    # An empty part is an absent one.
    empty = {"title": "", "properties": [], "values": [], "picture": b""}
    again = model(dtype=dtype, front_end=front_end).embed([empty, {}])
    np.testing.assert_array_equal(again, vectors[[0, 0]])


@pytest.mark.slow
def test_the_release_gives_a_product_one_vector_and_a_triple_no_score():
    seen, items = model(preset="release"), every_pattern()
    vectors = seen.embed(items)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(seen.embed(items[::-1]), vectors[::-1], atol=TOLERANCE)
    text = seen._arrays([record(1, [("colour", "red"), ("fibre", "wool")])], 1)["knowledge_tokens"]
    assert tokenizer().mask not in text  # nor is a value masked
    with pytest.raises(UserError, match="the release preset has no score of a single triple"):
        seen.link_scores(vectors, [("colour", "red")])


def test_nothing_is_masked_and_no_triple_is_hidden():
    """The arrays are those of the batch that a hand would write."""
    item = record(1, [("colour", "red")], title="red thing")
    seen = model()._arrays([item], rows=1)
    words = tokenizer()
    title = [words.cls, *words.encode("red thing"), words.sep]
    assert seen["title_tokens"][0, :4].tolist() == title
    assert seen["knowledge_tokens"][0, :4].tolist() == [
        words.cls, *words.encode("colour"), *words.encode("red"), words.sep
    ]  # fmt: skip
    assert seen["region_mask"].all()
    assert seen["triple_mask"][0].tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": 7}, "title is 7, not a string"),
        ({"values": []}, "1 properties and 0 values"),
        ({"values": "red"}, "values is 'red', not a list of texts"),
        ({"values": [""]}, "not a list of texts"),
        ({"triples": [("colour", "red")]}, "unknown key 'triples': make records with model.record"),
        ({"picture": b"no picture"}, "cannot identify image file"),
        ({"picture": jpeg(1, size=16)}, "16 patches and 4 classes, not 4"),
        ({"picture": "a.jpg"}, "a bytes-like object is required"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(change, said):
    items = [*products(5), record(5, [("colour", "red")]) | change]
    with pytest.raises(UserError, match=r"^records\[5\] \(id5\): ") as caught:
        model().embed(items)
    assert said in str(caught.value)


def test_what_is_no_record_is_named():
    with pytest.raises(UserError, match=r"records\[0\] \(no mapping\): str is not a record"):
        model().embed(["a red thing"])


def test_regions_that_cannot_be_used_are_named():
    item = every_pattern("regions")[7]
    broken = item | {"features": np.full_like(item["features"], np.nan)}
    with pytest.raises(UserError, match=r"records\[1\] \(id7\): features or boxes .* not finite"):
        model(front_end="regions").embed([item, broken])
    with pytest.raises(UserError, match=r"4 boxes with features \(4, 5\)"):
        model(front_end="regions").embed([item | {"features": item["features"][:, :5]}])


def test_a_record_is_made_as_building_makes_it():
    made = model().record(
        "7", title=" red\n", triples=[("colour", "red "), ("colour", "red")], picture=jpeg(3, 50)
    )
    assert (made["title"], made["properties"], made["values"]) == ("red", ["colour"], ["red"])
    assert np.isfinite(model().embed([made] * 2)).all()
    assert model().record("7") == model().record("7", title="", triples=[], picture=b"")


@pytest.mark.slow
def test_a_record_of_raw_regions():
    regions = {
        "image_w": 50,
        "image_h": 40,
        "boxes": np.array([[0, 0, 25, 20], [10, 10, 50, 40]]),
        "features": np.random.default_rng(0).normal(size=(2, 6)),
    }
    seen = model(front_end="regions")
    made = seen.record("7", regions=regions)
    np.testing.assert_allclose(made["boxes"], [[0, 0, 0.5, 0.5], [0.2, 0.25, 1, 1]])
    known, none, nothing = seen.embed([made, seen.record("7"), {}])
    assert np.abs(known - nothing).max() > 1e-3
    np.testing.assert_array_equal(none, nothing)


@pytest.mark.parametrize(
    ("front_end", "parts", "said"),
    [
        ("patches", {"picture": b"nothing"}, "record '7': bad_picture: none of JPEG, PNG, GIF"),
        ("patches", {"picture": "a.jpg"}, "record '7': bad_picture"),
        ("patches", {"title": 7}, "record '7': wrong_type: title"),
        ("patches", {"regions": {}}, "looks at a picture, not at regions"),
        ("regions", {"picture": b""}, "looks at regions, not at a picture"),
        ("regions", {"regions": {"boxes": [[0, 0, 1, 1]]}}, "no array features, image_h, image_w"),
    ],
)
def test_a_product_that_makes_no_record(front_end, parts, said):
    with pytest.raises(UserError) as caught:
        model(front_end=front_end).record("7", **parts)
    assert said in str(caught.value)


def test_link_scores_are_negated_energies():
    items, triples = products(3), [("colour", "red"), ("colour", "blue"), ("fibre", "wool")]
    c = model().embed(items)
    scores = model().link_scores(c, triples)
    assert scores.shape == (3, 3)
    # Literally, in NumPy, from the encoder's own p and v.
    texts = [tokenizer().encode_term(p) + tokenizer().encode_term(v) for p, v in triples]
    tokens = np.zeros((3, 6), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text) + 2] = [tokenizer().cls, *text, tokenizer().sep]
    spans = np.array([[[1, 2]] * 3, [[2, 3]] * 3], np.int32)
    encode = jax.jit(model().network.encode_candidates)
    p, v = encode(model().params, tokens, tokens > 0, *spans)
    energy = np.sqrt(np.square(c[:, None] + np.asarray(p) - np.asarray(v)).sum(-1))
    np.testing.assert_allclose(scores, -energy, rtol=1e-5)


@pytest.mark.parametrize(
    ("embeddings", "triples", "said"),
    [
        (np.zeros(32), [], r"embeddings of the shape \(32,\), not \[N, 32\]"),
        (np.zeros((2, 8)), [], r"embeddings of the shape \(2, 8\), not \[N, 32\]"),
        (np.zeros((2, 32)), ["ab"], "'ab' is not a .property, value. pair"),
        (np.zeros((2, 32)), [("a", "b"), ("a", "b", "c")], "'c'.* is not a .property, value. pair"),
    ],
)
def test_what_cannot_be_scored_is_told(embeddings, triples, said):
    with pytest.raises(UserError, match=f"link_scores: .*{said}"):
        model().link_scores(embeddings, triples)


@pytest.mark.slow
def test_links_of_more_products_and_triples_than_one_part_holds():
    c, triples = model().embed(products(3)), [("colour", "red"), ("colour", "blue")]
    scores = model().link_scores(c, triples)
    many = model().link_scores(np.repeat(c, 25, 0), triples * 33)
    assert many.shape == (75, 66)
    np.testing.assert_allclose(many[::25, 64:], scores, rtol=1e-5)
    assert model().link_scores(c, []).shape == (3, 0)
    assert model().link_scores(c[:0], triples).shape == (0, 2)
