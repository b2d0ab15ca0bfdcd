"""The robustness protocol: modalities that are missing, or are another product's.

The names and rates of the first seven settings are the paper's figures' (K3M, ACM MM 2021, Figs 3
and 4); KMR, KNR, TOR, IOR and other details are ours. What happens to an item is a function of the
seed, the setting, the rate and the item: it draws one number and is corrupted where that is less
than the rate, so that what is corrupted at one rate is corrupted in the same way at every higher
one. Which product noise is taken from also follows from the data set, but from no batch, host or
epoch.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from k3m_jax import modalities
from k3m_jax.data.records import ItemView, Record
from k3m_jax.settings import Corruption, UserError

DRAWS = 100  # of a noise item, before all items are gone through
EVALUATION_SEED = 0  # not the run's: runs of other seeds get the same targets and corruption


class Rule(NamedTuple):
    """What a setting does to an item that it corrupts."""

    noisy: bool  # takes another product's modality, instead of none
    choices: tuple[tuple[str, ...], ...]  # of modalities, equally likely
    alone: bool = False  # the modalities of the choice are all that is left


RULES = {
    "TMR": Rule(False, (("title",),)),
    "IMR": Rule(False, (("image",),)),
    "MMR": Rule(False, (("title",), ("image",))),
    "TNR": Rule(True, (("title",),)),
    "INR": Rule(True, (("image",),)),
    "TINR": Rule(True, (("title", "image"),)),
    "MNR": Rule(True, (("title",), ("image",), ("title", "image"))),
    "KMR": Rule(False, (("knowledge",),)),
    "KNR": Rule(True, (("knowledge",),)),
    "TOR": Rule(False, (("title",),), alone=True),
    "IOR": Rule(False, (("image",),), alone=True),
}


class Corrupter:
    """Corrupts items of one source; pickles."""

    def __init__(
        self,
        source: Sequence[Record],
        corruption: Corruption,
        seed: int,
        noise_pool: Sequence[int] | None = None,
    ):
        """`noise_pool`: the items of the source that noise is taken from; None are all of them."""
        self._source, self._seed = source, seed
        self._pool = range(len(source)) if noise_pool is None else noise_pool
        self._setting, self._rate = corruption.setting, corruption.rate
        self._modalities = dict(modalities.REGISTRY)  # a new process knows the library's own alone

    def __call__(self, view: ItemView, picture: str = "") -> ItemView:
        """The item as the model is to see it; the facts about it stay.

        `picture` is the path of the one that shows it, if not its own: it is corrupted as another
        item then, or a pair of two pictures of one item would be recognised by their common noise.
        Raises UserError: no other product has what is to be taken from one.
        """
        if not self._rate:
            return view
        rng = _generator(self._seed, self._setting, corruption_key(view.record.id, picture))
        # Drawn whatever the rate, and in this order: a higher rate changes nothing else.
        corrupted = rng.random() < self._rate
        names = self._drawn(rng)
        if not corrupted:
            return view
        noise = {name: self._modalities[name].empty for name in names}
        if RULES[self._setting].noisy:
            contents = self._noise_item(view.record, names, rng).contents
            noise = {name: contents[name] for name in names}
        return dataclasses.replace(view, visible={**view.visible, **noise})

    def modalities_of(self, key: str) -> tuple[str, ...]:
        """Those that the item of this `corruption_key` loses, if it is corrupted."""
        rng = _generator(self._seed, self._setting, key)
        rng.random()  # whether it is
        return self._drawn(rng)

    def _drawn(self, rng: np.random.Generator) -> tuple[str, ...]:
        rule = RULES[self._setting]
        names = rule.choices[rng.integers(len(rule.choices))]
        return tuple(n for n in self._modalities if n not in names) if rule.alone else names

    def _noise_item(
        self, record: Record, names: tuple[str, ...], rng: np.random.Generator
    ) -> Record:
        """An item of another product that has all of the modalities: by chance, or any."""
        kinds = {name: self._modalities[name] for name in names}
        drawn = (self._pool[int(rng.integers(len(self._pool)))] for _ in range(DRAWS))
        for other in map(self._source.__getitem__, itertools.chain(drawn, self._pool)):
            present = all(kind.is_present(other.contents[name]) for name, kind in kinds.items())
            if present and other.product != record.product:
                return other
        needed = f"{record.id} needs the {' and '.join(names)} of another product"
        hint = "and its data set has none: build shards of more products"
        raise UserError(f"{self._setting}: {needed}, {hint}")


def corruption_key(item: str, picture: str = "") -> str:
    """What an item's chance follows from: its id and the picture, if not its own, that shows it."""
    return f"{item}/{picture}" if picture else item


def corrupted(keys: Sequence[str], corruption: Corruption, seed: int) -> np.ndarray:
    """Which of the items of these keys `Corrupter` corrupts, bool [N]."""
    numbers = [_generator(seed, corruption.setting, key).random() for key in keys]
    return np.array(numbers) < corruption.rate


def _generator(seed: int, setting: str, key: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{setting}/{key}".encode(), digest_size=16).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))
