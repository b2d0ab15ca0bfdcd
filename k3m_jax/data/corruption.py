"""The robustness protocol: modalities that are missing, or are another product's.

The names and rates of the first seven settings are the paper's figures' (K3M, ACM MM 2021, Figs 3
and 4); how a mixed setting is split is recalled of it, the rest is a choice of ours, KMR and KNR
among it. What happens to an item is a function of the seed, the setting, the rate and the item: it
draws one number and is corrupted where that is less than the rate, so that what is corrupted at one
rate is corrupted, in the same way, at every higher one. The other product that noise is taken from
is drawn by the same generator, from the items of the source in their order; which of them it is
follows from the data set, too, but from no batch, host, worker or epoch.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from k3m_jax.settings import Corruption, UserError

# What of a record tells a modality. Knowledge is what the model is *told*: the facts about the item
# stay, for they are what it is asked about.
MODALITIES = {
    "title": ("title",),
    "image": ("picture", "class_ids", "boxes", "features", "class_probs"),
    "knowledge": ("told",),
}
DRAWS = 100  # of a donor, before all items are gone through


class CorruptionRule(NamedTuple):
    """What a setting does to an item that it corrupts."""

    noisy: bool  # takes another product's, instead of nothing
    choices: tuple[tuple[str, ...], ...]  # of modalities, equally likely


RULES = {
    "TMR": CorruptionRule(False, (("title",),)),
    "IMR": CorruptionRule(False, (("image",),)),
    "MMR": CorruptionRule(False, (("title",), ("image",))),
    "TNR": CorruptionRule(True, (("title",),)),
    "INR": CorruptionRule(True, (("image",),)),
    "TINR": CorruptionRule(True, (("title", "image"),)),
    "MNR": CorruptionRule(True, (("title",), ("image",), ("title", "image"))),
    "KMR": CorruptionRule(False, (("knowledge",),)),
    "KNR": CorruptionRule(True, (("knowledge",),)),
}


class CorruptedSource(Sequence):
    """The items of a source (see `shards.ProductSource`) as the model is to see them; pickles.

    Each has `told`, the triples [(property, value)] that the model may read; `properties` and
    `values` are still the item's own.
    """

    def __init__(
        self,
        source: Sequence[Mapping[str, Any]],
        corruption: Corruption,
        seed: int,
        noise_pool: Sequence[int] | None = None,
    ):
        """`noise_pool`: the items of the source that noise is taken from; None are all of them."""
        self._source, self._seed = source, seed
        self._donors = range(len(source)) if noise_pool is None else noise_pool
        self._setting, self._rate = corruption.setting, corruption.rate
        self._protocol = RULES[corruption.setting]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises UserError where no other product has what is to be taken from one."""
        return self.corrupt(self._source[index])

    def corrupt(self, item: Mapping[str, Any], view: str = "") -> dict[str, Any]:
        """The same of an item of the source that is shown otherwise, by another picture.

        Args:
          item: as it is shown.
          view: what tells that picture from its own. It is corrupt as another item would be: a pair
            of two views of one item would else be told by the noise that both have in common.
        """
        record = {**item, "told": visible_triples(item)}
        rng = _generator(self._seed, self._setting, corruption_key(record["id"], view))
        # Drawn whatever the rate, and in this order: a higher rate changes nothing else.
        corrupted = _draw(rng) < self._rate
        choices = self._protocol.choices
        modalities = choices[rng.integers(len(choices))]
        if not corrupted:
            return record
        donor = self._donor(record, modalities, rng) if self._protocol.noisy else None
        for modality in modalities:
            for key in MODALITIES[modality]:
                if key in record:
                    record[key] = donor[key] if donor else record[key][:0]
        return record

    def __repr__(self) -> str:  # grain tells sources apart by it
        how = f"{self._setting} at {self._rate}, seed {self._seed}"
        return f"CorruptedSource({self._source!r}, {how})"

    def _donor(
        self, record: Mapping[str, Any], modalities: tuple[str, ...], rng: np.random.Generator
    ) -> dict[str, Any]:
        """An item of another product that has all of the modalities."""
        for index in self._draws(rng):
            donor = self._source[index]
            donor = {**donor, "told": visible_triples(donor)}
            if donor["product"] != record["product"] and all(_has(donor, m) for m in modalities):
                return donor
        raise UserError(
            f"{self._setting}: {record['id']} needs the {' and '.join(modalities)} of another "
            f"product, and {self._source!r} has none: build shards of more products"
        )

    def _draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Some items by chance, then all of them."""
        for _ in range(DRAWS):
            yield self._donors[int(rng.integers(len(self._donors)))]
        yield from self._donors


def corruption_key(item: str, view: str = "") -> str:
    """What an item's chance follows from: its id and the picture, if not its own, that shows it."""
    return f"{item}/{view}" if view else item


def corrupted(ids: Sequence[str], corruption: Corruption, seed: int) -> np.ndarray:
    """Which of the items of these `identity` `CorruptedSource` spoils, bool [N]."""
    numbers = [_draw(_generator(seed, corruption.setting, item)) for item in ids]
    return np.array(numbers) < corruption.rate


def visible_triples(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The triples of a record that the model may read: all of them, or what was left of them."""
    return record.get("told", list(zip(record["properties"], record["values"], strict=True)))


def _has(record: Mapping[str, Any], modality: str) -> bool:
    return any(len(record.get(key, ())) for key in MODALITIES[modality])


def _draw(rng: np.random.Generator) -> float:
    """The number of an item that the rate is compared with: the first of its generator."""
    return rng.random()


def _generator(seed: int, setting: str, item: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{setting}/{item}".encode(), digest_size=16).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))
