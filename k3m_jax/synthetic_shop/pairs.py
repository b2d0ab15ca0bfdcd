"""Labelled pairs of the embedded catalogue's items, for product alignment."""

import collections
from typing import Any

import numpy as np

Item = dict[str, Any]
"""A line of products.jsonl."""


def align_pairs(items: list[Item], seed: int) -> list[Item]:
    """Pairs of pictures labelled 1 where they show the same product in the same colour, else 0.

    Every positive pair comes with one negative, if its split has another product. Hard negatives
    are preferred: the same product in another colour, then the same category.
    """
    rng = np.random.default_rng(seed)
    by_product, by_category, by_split = (collections.defaultdict(list) for _ in range(3))
    for item in items:
        if item["images"]:
            by_product[item["product"]].append(item)
            by_category[item["split"], item["category"]].append(item)
            by_split[item["split"]].append(item)

    def unlike(a: Item) -> list[Item]:
        """One negative pair."""
        others = [b for b in by_product[a["product"]] if _variant(b) != _variant(a)]
        if others and rng.random() < 0.5:
            return [_pair(a, _any(others, rng), "other colour of same style", 0)]
        kind, crowd = "same category", by_category[a["split"], a["category"]]
        if rng.random() < 0.4:
            kind, crowd = "random", by_split[a["split"]]
        strangers = [b for b in crowd if b["product"] != a["product"]]
        return [_pair(a, _any(strangers, rng), kind, 0)] if strangers else []

    pairs = []
    for group in by_product.values():
        for i, a in enumerate(group):
            if len(a["images"]) > 1:
                pairs += [_pair(a, a, "same variant, other view", 1), *unlike(a)]
            later = [b for b in group[i + 1 :] if _variant(b) == _variant(a)]
            if later:
                pairs += [_pair(a, later[0], "same product, other photo", 1), *unlike(a)]
    return pairs


def _pair(a: Item, b: Item, kind: str, label: int) -> Item:
    """A line of align_pairs.jsonl; an item with itself is its first and its last picture."""
    return {
        "split": a["split"],
        "a": a["id"],
        "a_image": a["images"][0],
        "b": b["id"],
        "b_image": b["images"][-1 if b is a else 0],
        "label": label,
        "kind": kind,
    }


def _any(items: list[Item], rng: np.random.Generator) -> Item:
    return items[int(rng.integers(len(items)))]


def _variant(item: Item) -> str:
    """The product in its colour."""
    return item["id"].rsplit("-", 1)[0]
