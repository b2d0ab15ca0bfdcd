"""Product embedding as a library call."""

import dataclasses
import functools
import logging

import jax
import numpy as np
import pytest
from exported import every_pattern, tiny_model, tiny_params
from products import detected, having, jpeg, products, record, tokenizer

from k3m_jax.modalities.picture import Picture
from k3m_jax.serving.product_model import ROWS, ProductModel
from k3m_jax.settings import UserError

# Rows of a batch do not see each other, but a matrix product of other shapes may add up in another
# order: float32 keeps about 7 digits, of embeddings that are about 1.
TOLERANCE = 1e-5


@functools.cache
def _model(network):
    return ProductModel(network, tiny_params(network), tokenizer())


def model(**sizes):
    return _model(tiny_model(**sizes))  # equal networks are one key


def test_vectors_are_in_the_order_of_their_records():
    items = products(8)
    vectors = model().embed(items)
    assert vectors.shape == (8, 32)
    assert vectors.dtype == np.float32
    order = np.random.default_rng(0).permutation(7)
    shuffled = model().embed(items[i] for i in order)  # with a row of padding
    np.testing.assert_allclose(shuffled, vectors[order], atol=TOLERANCE)
    assert model().embed(iter(())).shape == (0, 32)


@pytest.mark.slow
def test_nothing_is_compiled_twice_and_nothing_depends_on_the_number_of_rows(caplog):
    fresh = ProductModel(tiny_model(), tiny_params(tiny_model()), tokenizer())
    whole = fresh.embed(products(128))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for count in (1, 3, 64, 65, 2, 7, 8, 9, 63, 66, 127):
            np.testing.assert_allclose(fresh.embed(products(count)), whole[:count], atol=TOLERANCE)
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
    assert len(compiled) == len(ROWS) - 1, compiled  # the largest was compiled before


@pytest.mark.parametrize(
    ("dtype", "front_end"),
    [
        ("float32", "patches"),
        pytest.param("float32", "regions", marks=pytest.mark.slow),
        pytest.param("bfloat16", "patches", marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_absence(dtype, front_end):
    seen = model(dtype=dtype, front_end=front_end)
    vectors = seen.embed(every_pattern(front_end))
    assert np.isfinite(vectors).all()
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1) + np.eye(8)
    assert apart.min() > 1e-4
    np.testing.assert_array_equal(seen.embed([seen.record("nothing")] * 2), vectors[[0, 0]])


@pytest.mark.slow
def test_the_release_gives_a_product_one_vector_and_a_triple_no_score():
    seen, items = model(preset="release"), every_pattern()
    vectors = seen.embed(items)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(seen.embed(items[::-1]), vectors[::-1], atol=TOLERANCE)
    text = seen.arrays([record(1, [("colour", "red"), ("fibre", "wool")])], 1)["knowledge_tokens"]
    assert tokenizer().mask not in text  # no value is masked
    with pytest.raises(UserError, match=r"link_scores: model\.preset 'release'"):
        seen.link_scores(vectors, [("colour", "red")])


def test_nothing_is_masked_and_no_triple_is_hidden():
    item = record(1, [("colour", "red")], title="red thing")
    seen = model().arrays([item], rows=1)
    words = tokenizer()
    title = [words.cls, *words.encode("red thing"), words.sep]
    assert seen["title_tokens"][0, :4].tolist() == title
    assert seen["knowledge_tokens"][0, :4].tolist() == [
        words.cls, *words.encode("colour"), *words.encode("red"), words.sep
    ]  # fmt: skip
    assert seen["region_mask"].all()
    assert seen["triple_mask"][0].tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("front_end", "change"),
    [
        ("patches", {"title": 7}),
        ("patches", {"knowledge": [("colour",)]}),
        ("patches", {"image": Picture(b"no picture")}),
        ("patches", {"image": Picture(jpeg(1, size=16))}),
        ("patches", {"image": Picture("a.jpg")}),
        ("regions", {"image": detected(7, width=5)}),
        ("regions", {"image": dataclasses.replace(detected(7), features=np.full((4, 6), np.nan))}),
    ],
)
def test_a_record_that_cannot_be_used_is_named(front_end, change):
    items = every_pattern(front_end)[:5]
    for last, name in ((having(record(5, []), **change), "id5"), (change, "dict, ")):
        with pytest.raises(UserError, match=rf"^records\[5\] \({name}"):
            model(front_end=front_end).embed([*items, last])


def test_a_record_is_made_as_a_build_makes_it():
    triples = [("colour", "red "), ("colour", "red")]
    made = model().record("7", title=" red\n", triples=triples, picture=jpeg(3, 50))
    assert (made.title, made.triples) == ("red", (("colour", "red"),))
    assert np.isfinite(model().embed([made] * 2)).all()
    for absent in ({}, {"title": "", "triples": [], "picture": b""}):
        nothing = model().record("7", **absent)
        assert (nothing.title, nothing.triples, nothing.picture) == ("", (), b"")


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
    boxes = made.contents["image"].boxes
    np.testing.assert_allclose(boxes, [[0, 0, 0.5, 0.5], [0.2, 0.25, 1, 1]])
    empty = regions | {"boxes": np.zeros((0, 4)), "features": np.zeros((0, 6))}
    records = [made, seen.record("7"), seen.record("7", regions=empty)]
    known, none, nothing = seen.embed(records)
    assert np.abs(known - nothing).max() > 1e-3
    np.testing.assert_array_equal(none, nothing)


@pytest.mark.parametrize(
    ("front_end", "parts", "reason"),
    [
        ("patches", {"picture": "a.jpg"}, "picture is str"),
        ("patches", {"titel": "red"}, "unknown key 'titel'"),
        ("patches", {"images": ["a.jpg"]}, "unknown key 'images'"),
        ("patches", {"regions": {}}, "are for a model of regions"),
        ("regions", {"picture": b"", "regions": {}}, "without a picture"),
        ("regions", {"regions": {"boxes": [[0, 0, 1, 1]]}}, "bad_regions"),
    ],
)
def test_a_product_that_makes_no_record(front_end, parts, reason):
    with pytest.raises(UserError, match=f"record '7': .*{reason}"):
        model(front_end=front_end).record("7", **parts)


def test_a_part_that_cannot_be_used_is_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="'7': bad_picture") as warned:
        made = model().record("7", picture=b"<html>", title=7, triples={"colour": "red"})
    assert (made.title, made.triples, made.picture) == ("7", (("colour", "red"),), b"")
    assert len(warned) == 3
    assert np.isfinite(model().embed([made])).all()


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
    spans = {
        f"{k}_spans": np.tile(np.int32(s), (3, 1))
        for k, s in (("property", [1, 2]), ("value", [2, 3]))
    }
    encode = jax.jit(model().network.encode_candidates)
    p, v = encode(model().params, {"tokens": tokens, "mask": tokens > 0, **spans})
    energy = np.sqrt(np.square(c[:, None] + np.asarray(p) - np.asarray(v)).sum(-1))
    np.testing.assert_allclose(scores, -energy, rtol=1e-5)


@pytest.mark.parametrize(
    ("embeddings", "triples"),
    [
        (np.zeros(32), []),
        (np.zeros((2, 8)), []),
        (np.zeros((2, 32)), ["ab"]),
        (np.zeros((2, 32)), [("a", "b"), ("a", "b", "c")]),
    ],
)
def test_arguments_that_cannot_be_scored(embeddings, triples):
    with pytest.raises(UserError, match="link_scores: "):
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
