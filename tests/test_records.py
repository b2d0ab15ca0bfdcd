"""Products: what is cleaned, what is refused, which split a product falls into."""

import collections
import pickle

import pytest

from k3m_jax.data.records import InvalidRecordError, Product, Splitting, check_strict


def parsed(**line):
    return Product.parse({"id": "a", **line})


def triples_of(product):
    return product.sources["knowledge"]


def test_missing_parts_are_empty_not_refused():
    product = parsed()
    assert product.sources == {"title": "", "image": (), "knowledge": ()}
    assert product.category == ""
    assert product.product == "a"  # its own group
    assert product.repairs == ()


def test_values_pass_through_untouched():
    triples = [
        ["size", "S:M;L#XL"],
        ["mood", "👩‍👩‍👧 happy 😀"],
        ["a#:#b", "c#;#d"],
        ["混合", "棉 80%"],
    ]
    product = parsed(title="  12:30; #1 🎁 \n", triples=triples)
    assert triples_of(product) == tuple(map(tuple, triples))
    assert product.sources["title"] == "12:30; #1 🎁"


def test_repeated_properties_stay_and_repeated_triples_do_not():
    product = parsed(triples=[["climate", "Cool"], ["climate", "Windy"], ["climate", "Cool "]])
    assert triples_of(product) == (("climate", "Cool"), ("climate", "Windy"))
    assert product.repairs == ("repeated_triple",)


def test_triples_that_say_nothing_are_dropped_and_noted():
    product = parsed(triples=[["", "x"], ["p", " "], ["p", None], ["p", "v"]])
    assert triples_of(product) == (("p", "v"),)
    assert product.repairs == ("empty_triple",) * 3


def test_158_triples_are_kept_in_order():
    triples = [[f"p{i % 40}", f"v{i}"] for i in range(158)]
    assert triples_of(parsed(triples=triples)) == tuple(map(tuple, triples))


def test_whole_numbers_can_name_an_item():
    product = parsed(id=631433039677, product=7)
    assert (product.id, product.product) == ("631433039677", "7")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "missing_id"),
        ({"id": ""}, "missing_id"),
        ({"id": " \t"}, "missing_id"),
        ({"id": True}, "wrong_type"),
        ({"id": 1.5}, "wrong_type"),
        ({"id": ["a"]}, "wrong_type"),
        ({"id": "\ud83d"}, "not_unicode"),
        ({"split": 3.5}, "wrong_type"),
        ({"split": "../train"}, "bad_split"),
        ({"split": "all"}, "bad_split"),
    ],
)
def test_refused(fields, reason):
    with pytest.raises(InvalidRecordError) as caught:
        parsed(**fields)
    assert caught.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))  # it crosses process borders
    assert (again.reason, again.detail) == (reason, caught.value.detail)


@pytest.mark.parametrize(
    ("fields", "found", "kinds"),
    [
        ({"title": 3}, "3", ["number_as_text"]),
        ({"title": True}, "true", ["number_as_text"]),
        ({"title": 3.0}, "3", ["number_as_text"]),
        ({"title": float("nan")}, "", ["number_as_text"]),
        ({"title": {"en": "shirt"}}, "", ["wrong_type"]),
        ({"title": "a\ud83d"}, "a?", ["not_unicode"]),
        ({"category": ["a", "b"]}, "a > b", ["list_as_text"]),
        ({"product": [1]}, "1", ["list_as_text", "number_as_text"]),
        ({"images": [4, None, "a.jpg"]}, ("a.jpg",), ["wrong_type", "empty_picture"]),
        ({"images": "a.jpg"}, ("a.jpg",), ["single_picture"]),
        ({"images": 4}, (), ["wrong_type"]),
        ({"images": [{"src": "a.jpg"}, {}]}, ("a.jpg",), ["object_as_picture"] * 2),
        ({"triples": "color: red"}, (), ["wrong_type"]),
        ({"triples": {"color": "red"}}, (("color", "red"),), ["object_as_triples"]),
        ({"triples": [{"name": "c", "value": "r"}]}, (("c", "r"),), ["object_as_triples"]),
        ({"triples": [{"c": "r"}, {}]}, (("c", "r"),), ["object_as_triples"] * 2 + ["wrong_type"]),
        ({"triples": ["color", "red"]}, (), ["wrong_type"] * 2),
        ({"triples": [["a", "b", "x"], ["c", "d"]]}, (("c", "d"),), ["wrong_type"]),
        ({"triples": [["c", ["a", "b"]]]}, (("c", "a"), ("c", "b")), ["list_of_values"]),
        ({"triples": [["weight", 5]]}, (("weight", "5"),), ["number_as_text"]),
    ],
)
def test_a_part_that_is_wrong_costs_that_part_alone(fields, found, kinds):
    product = parsed(**fields)
    (key,) = fields
    sources = {"images": "image", "triples": "knowledge", "title": "title"}
    part = product.sources[sources[key]] if key in sources else getattr(product, key)
    assert part == found
    repairs = list(product.repairs)
    assert sorted(r.partition(":")[0] for r in repairs) == sorted(kinds)
    with pytest.raises(InvalidRecordError) as caught:
        check_strict(product.repairs)
    assert caught.value.reason in kinds


def test_split_by_product_is_stable_and_keeps_a_product_together():
    items = [parsed(id=f"{g}-{i}", product=f"g{g}") for g in range(2000) for i in range(2)]
    splits = collections.defaultdict(set)
    for item in items:
        splits[item.product].add(Splitting(0.05)(item))
    assert all(len(s) == 1 for s in splits.values())
    share = sum(s == {"valid"} for s in splits.values()) / len(splits)
    assert 0.035 < share < 0.065  # 3 standard deviations of a draw of 2000
    assert [Splitting(0.05)(i) for i in items[:50]] == [Splitting(0.05)(i) for i in items[:50]]


def test_the_records_own_split_wins():
    item = parsed(split="test_unseen")
    assert Splitting(0.5)(item) == "test_unseen"
    assert Splitting(0.0)(parsed()) == "train"
