"""Products of the embedded catalogue: their facts, independent of any modality.

The structure that a model can learn: every value is drawn from a Zipf law over an order that its
parent decides. A series has its own favourite materials, a brand its own countries, a category its
own colours, so each fact is a hint about others, and no value is common everywhere.
"""

import dataclasses
import functools
import hashlib
import itertools
import math

import numpy as np

from k3m_jax.synthetic_shop.assortment import (
    AUDIENCES,
    BRANDS,
    CARE,
    COUNTRIES,
    FAMILIES,
    SEASONS,
    Category,
    Family,
)
from k3m_jax.synthetic_shop.pictures import COLORS, PATTERNS, SHAPES, Design

BRAND_OF = dict(
    zip(
        (s for f in FAMILIES for c in f.categories for s in c.series),
        itertools.cycle(BRANDS),
        strict=False,
    )
)
"""Each series belongs to one brand; a brand has two."""

TYPICAL = 0.8
"""Share of a category's products from its own series; the rest are from its family's other
category, so that knowledge is strong but not conclusive evidence of the category."""

_CARE_OF = {material: care for care, materials in CARE.items() for material in materials}


@dataclasses.dataclass(frozen=True)
class Product:
    """A product in one or two colours.

    `facts` maps a property to its values, except the colour.
    """

    family: Family
    category: Category
    colors: tuple[str, ...]
    facts: dict[str, tuple[str, ...]]
    design: Design

    def facts_in(self, color: str) -> dict[str, tuple[str, ...]]:
        """All facts of the variant of that colour."""
        return {"color": (color,), **self.facts}


def draw_product(rng: np.random.Generator) -> Product:
    """Draws a product; a pure function of the generator's state."""

    def one(values, exponent: float, *parents: str) -> str:
        return _zipf(rng, tuple(values), exponent, "/".join(parents))

    def several(values, exponent: float, chance: float, *parents: str) -> tuple[str, ...]:
        first = one(values, exponent, *parents)
        if rng.random() >= chance:
            return (first,)
        return first, one([v for v in values if v != first], exponent, *parents)

    names = [c.name for f in FAMILIES for c in f.categories]
    name = one(names, 0.4, "catalogue")
    family, category = next((f, c) for f in FAMILIES for c in f.categories if c.name == name)
    lines = category if rng.random() < TYPICAL else _other(family, category)
    series = one(lines.series, 0.7, name)
    brand = BRAND_OF[series]
    color = one(COLORS, 0.8, name)
    other = one([c for c in COLORS if c != color], 0.8, name)
    accent = one([c for c in COLORS if c not in (color, other)], 1.0, color)
    material = one(family.materials, 1.4, series)
    facts = {
        "brand": (brand,),
        "series": (series,),
        "accent color": (accent,),
        "pattern": (one(PATTERNS, 0.9, series),),
        "shape": (one(SHAPES, 0.8, brand),),
        family.detail: (one(family.details, 1.0, series),),
        family.measure: (one(family.measures, 1.2, series),),
        "material": (material,),
        "season": several(SEASONS, 2.0, 0.4, name, material),
        "audience": several(AUDIENCES, 2.0, 0.3, name),
        "country of origin": (one(COUNTRIES, 1.8, brand),),
        "department": (family.department,),
        "care": (_CARE_OF[material],),
    }
    rays = int(rng.choice([0, 3, 4, 5, 6, 8]))
    plain = facts["pattern"] == ("plain",)
    design = Design(
        repeats=rng.uniform(2.2, 4.5),
        phase=rng.random(),
        emblem_points=rays or (5 if plain else 0),  # the accent color has to show somewhere
        emblem_size=rng.uniform(0.14, 0.26),
        emblem_at=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.3)),
    )
    colors = (color, other) if rng.random() < 0.25 else (color,)
    return Product(family, category, colors, facts, design)


def _other(family: Family, category: Category) -> Category:
    """The family's other category."""
    return next(c for c in family.categories if c is not category)


def _zipf(rng: np.random.Generator, values: tuple[str, ...], exponent: float, parent: str) -> str:
    """One of `values`; the probability of rank r in the parent's order falls as r^-exponent."""
    order, cumulative = _ranked(values, exponent, parent)
    return order[int(np.searchsorted(cumulative, rng.random(), side="right"))]


@functools.lru_cache(maxsize=65536)
def _ranked(values: tuple[str, ...], exponent: float, parent: str):
    """The parent's order of the values and the cumulative chances.

    The order is itself random, by hash, with a preference for the first of `values`: some values
    are common everywhere and some rare, as in a real shop.
    """

    def place(rank_and_value: tuple[int, str]) -> float:
        rank, value = rank_and_value
        digest = hashlib.sha256(f"{parent}/{value}".encode()).digest()
        uniform = (int.from_bytes(digest[:4], "big") + 0.5) / 2**32
        return -math.log(uniform) * (rank + 1) ** 0.6

    order = [value for _, value in sorted(enumerate(values), key=place)]
    cumulative = np.cumsum(np.arange(1, len(values) + 1) ** -exponent)
    return order, cumulative / cumulative[-1]
