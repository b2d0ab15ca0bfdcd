"""Stability: does an item's vector stay near itself when a modality is missing or wrong?

N held-out items are embedded as they are and once more in each setting of `data.corruption`, with
every item corrupted. The vector of a corrupted item looks for the item's complete vector among all
N, and for other items of its product, by cosine. Of the objectives `view` alone trains for this.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from k3m_jax import modalities
from k3m_jax.data.corruption import EVALUATION_SEED, RULES, Corrupter
from k3m_jax.data.input.pipeline import first_items
from k3m_jax.data.records import ItemView, Record
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.metrics import Ranks, hits_at
from k3m_jax.objectives.base import Sum
from k3m_jax.settings import Corruption

ONE_MISSING = ("TMR", "IMR", "KMR")
SETTINGS = {
    "TMR": "no title",
    "IMR": "no picture",
    "KMR": "no triples",
    "TOR": "title alone",
    "IOR": "picture alone",
    "TNR": "wrong title",
    "INR": "wrong picture",
    "TINR": "wrong title and picture",
    "MNR": "title, picture or both wrong",
    "KNR": "wrong triples",
}
CLEAN = "clean"  # complete items that look for others of their product
# Cosines that differ by less tie: equal vectors differ so much by the order in which they are
# summed, which must not decide what is nearest.
TOLERANCE = 1e-6
BLOCK = 256  # corrupted vectors that are compared with all others at once
KS = (1, 10)

Metrics = dict[str, Sum]  # item by item, float64 [N] both
Vectors = Any  # of some items; for a model `unit` vectors [rows, D]
Embed = Callable[[Sequence[Sequence[ItemView]]], Vectors]


class CorruptedItems(Sequence):
    """Some items of a source, corrupted."""

    def __init__(self, source: Sequence[Record], places: Sequence[int], corrupt: Corrupter | None):
        self._source, self._places, self._corrupt = source, places, corrupt

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> ItemView:
        view = ItemView.of(self._source[int(self._places[index])])
        return self._corrupt(view) if self._corrupt else view

    def __repr__(self) -> str:  # grain tells sources apart by it
        return f"CorruptedItems({self._source!r}, {len(self)} items)"


class Sample:
    """N items, always the same: the first of each data set's split, as evaluation takes them.

    An item is `kept` in a setting if it changes what the model reads of the item, and leaves
    something to read.
    """

    def __init__(
        self, shard_sets: Sequence[ShardSet], split: str, limit: int, read: Collection[str]
    ):
        """Of at most `limit` items; `read` names the modalities that the model reads."""
        having = [shards for shards in shard_sets if shards.info.products.get(split)]
        self._sources = [shards.source(split) for shards in having]
        self._counts = first_items(list(map(len, self._sources)), limit)
        self._read = frozenset(read)
        records = [s[i] for s, n in zip(self._sources, self._counts, strict=True) for i in range(n)]
        self._ids = [record.id for record in records]
        self.products = np.unique([record.product for record in records], return_inverse=True)[1]
        self._present = {
            name: np.array([modality.is_present(r.contents[name]) for r in records], bool)
            for name, modality in modalities.REGISTRY.items()
        }

    def __len__(self) -> int:
        return len(self._ids)

    @functools.cached_property
    def kept(self) -> dict[str, np.ndarray]:
        """By setting, the numbers of the items that are kept in it, ascending."""
        found = {}
        for setting in SETTINGS:
            each = (kept for *_, kept in self._by_source(setting))
            found[setting] = np.concatenate([np.zeros(0, np.int64), *each])
        return found

    def views(self, setting: str = "") -> list[CorruptedItems]:
        """Those kept in a setting, as it corrupts them; all items as they are by default."""
        if not setting:
            pairs = zip(self._sources, self._counts, strict=True)
            return [CorruptedItems(source, range(n), None) for source, n in pairs if n]
        return [
            CorruptedItems(source, kept - first, corrupter)
            for source, corrupter, first, kept in self._by_source(setting)
            if len(kept)
        ]

    def _by_source(
        self, setting: str
    ) -> Iterator[tuple[Sequence[Record], Corrupter, int, np.ndarray]]:
        first, noisy = 0, RULES[setting].noisy
        for source, count in zip(self._sources, self._counts, strict=True):
            corrupter = Corrupter(source, Corruption(setting, 1.0), EVALUATION_SEED)
            items = np.arange(first, first + count)
            kept = []
            if not noisy or all(self._several(items, names) for names in RULES[setting].choices):
                taken = (corrupter.modalities_of(self._ids[item]) for item in items)
                kept = [i for i, t in zip(items, taken, strict=True) if self._changes(i, t, noisy)]
            yield source, corrupter, first, np.array(kept, np.int64)
            first += count

    def _changes(self, item: int, taken: Collection[str], noisy: bool) -> bool:
        """Whether without `taken`, or with another product's, something is lost and is left."""
        own = {name for name in self._read if self._present[name][item]}
        read = self._read.intersection(taken)
        if noisy:
            return bool(read) and read <= own
        return bool(own & read) and bool(own - read)

    def _several(self, items: np.ndarray, names: Collection[str]) -> bool:
        """Whether two products have all of the modalities, so that noise is to be had."""
        having = np.all([self._present[name][items] for name in names], axis=0)
        return len(set(self.products[items[having]])) > 1


def dot(corrupted: np.ndarray, complete: np.ndarray, rows: slice) -> np.ndarray:
    """Cosines of some rows with all: of `unit` vectors [I, D] and [N, D], [rows, N]."""
    return corrupted[rows] @ complete.T


def measure(
    sample: Sample,
    embed: Embed,
    settings: Collection[str] = tuple(SETTINGS),
    cosines: Callable[[Vectors, Vectors, slice], np.ndarray] = dot,
) -> Metrics:
    """`TMR100_recall_at_1` and so on of each setting in which any item is kept.

    `recall_at_K` is whether the own complete vector is among the K nearest of all N, `cosine` is
    that with it, and `product_recall_at_K` is whether one of another item of the product is among
    the K nearest of the others, of the items that have such. `clean_product_recall_at_K` starts
    from the complete vector. `embed` is called once for each setting; `cosines` understands what
    it gives.
    """
    if not len(sample):
        return {}
    complete = embed(sample.views())
    rows = {CLEAN: np.arange(len(sample)), **{name: sample.kept[name] for name in settings}}
    found = {}
    for setting, items in rows.items():
        if not len(items):
            continue
        corrupted = complete if setting == CLEAN else embed(sample.views(setting))
        cosines_of = functools.partial(cosines, corrupted, complete)
        metrics = compare(cosines_of, items, sample.products)
        if setting == CLEAN:
            metrics = {name: x for name, x in metrics.items() if name.startswith("product")}
        prefix = setting if setting == CLEAN else f"{setting}100"
        found |= {f"{prefix}_{name}": metric for name, metric in metrics.items()}
    return found


def compare(
    cosines_of: Callable[[slice], np.ndarray], items: np.ndarray, products: np.ndarray
) -> Metrics:
    """What the corrupted vectors of some items find among the complete ones of all N.

    Args:
      cosines_of: gives those of some of I corrupted vectors with all N complete ones, [rows, N];
        NaN is far from all.
      items: [I] which of the N each is of.
      products: [N] numbers of the products.
    """
    count = len(products)
    names = ["cosine", *(f"{kind}recall_at_{k}" for kind in ("", "product_") for k in KS)]
    totals = {name: np.zeros(count) for name in names}
    own_weight, other_weight = np.zeros(count), np.zeros(count)
    own_weight[items] = 1
    for start in range(0, len(items), BLOCK):
        chosen = items[start : start + BLOCK]
        row = np.arange(len(chosen))
        cosines = cosines_of(slice(start, start + len(chosen)))
        totals["cosine"][chosen] = cosines[row, chosen]
        cosines[np.isnan(cosines)] = -np.inf
        everyone = np.ones(cosines.shape, bool)
        ranks = _ranks(cosines, cosines[row, chosen], everyone)
        others = products[chosen, None] == products
        everyone[row, chosen] = others[row, chosen] = False
        nearest = np.where(others, cosines, -np.inf).max(1)
        other_ranks = _ranks(cosines, nearest, everyone)
        true = (others & (cosines >= nearest[:, None] - TOLERANCE)).sum(1)
        other_weight[chosen] = others.any(1)
        for k in KS:
            totals[f"recall_at_{k}"][chosen] = hits_at(k, ranks)
            hits = _any_hits_at(k, other_ranks, true) * others.any(1)
            totals[f"product_recall_at_{k}"][chosen] = hits
    weights = {n: other_weight if n.startswith("product") else own_weight for n in names}
    return {name: Sum(totals[name], weights[name]) for name in names}


def _ranks(cosines: np.ndarray, answers: np.ndarray, candidates: np.ndarray) -> Ranks:
    """Where an answer, one of a query's candidates, stands among these: cosines [I], [I, N]."""
    better = ((cosines > answers[:, None] + TOLERANCE) & candidates).sum(1)
    reached = ((cosines >= answers[:, None] - TOLERANCE) & candidates).sum(1)
    return Ranks(better, reached - better - 1)


def _any_hits_at(k: int, ranks: Ranks, true: np.ndarray) -> np.ndarray:
    """The chance [I] that any of `true` answers, all tied as `ranks` says, is in the first `k`."""
    missed, tied = np.ones(len(true)), ranks.tied + 1
    for drawn in range(k):  # so many of the tied ones have been false
        left = np.maximum(tied - drawn, 1)
        chance = np.maximum(tied - true - drawn, 0) / left
        missed *= np.where(drawn < k - ranks.better, chance, 1)
    return 1 - missed


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] at length 1, float64; zeros stay, and what is not finite becomes NaN."""
    vectors = np.asarray(vectors, np.float64)
    with np.errstate(invalid="ignore"):
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(length == 0, 1, length)
