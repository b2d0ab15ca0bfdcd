"""Which modalities of the embedded catalogue contain each fact, and titles in sellers' words.

Each fact has one home modality that always contains it: the picture for visible facts, the title or
the triples, by chance, for the rest. Every other modality that could contain it does so with
probability `overlap`: at 0 each fact appears once, at 1 in every modality that can express it.
"""

import numpy as np

from k3m_jax.synthetic_shop.assortment import Category, Family

VISIBLE = ("color", "accent color", "pattern", "shape")
"""Properties that every picture shows, in addition to the family's own detail."""

TRIPLES_ONLY = ("department", "care")
"""Properties that no title contains."""

_LEAD = ("brand", "series")
_TAIL = ("accent color", "season", "country of origin")
_PHRASES = {
    "accent color": ("with {} trim", "{} trim", "+ {}"),
    "season": ("for {}", "{}", "{} season"),
    "audience": ("{}", "for {}"),
    "country of origin": ("made in {}", "from {}"),
    "material": ("{}", "{}", "pure {}"),
    "pattern": ("{}", "{}", "{} design"),
    "shape": ("{} fit", "{}"),
    "size": ("size {}",),
}
_FILLERS = (
    "new", "hot sale", "free shipping", "2021", "in stock", "best price", "original",
    "top quality", "limited offer", "100% genuine", "gift idea", "bestseller", "clearance",
    "must have", "fast delivery",
)  # fmt: skip
_EMOJI = ("🔥", "⭐", "✨", "🎁", "💯")
_SHORT = {
    "black": "blk",
    "white": "wht",
    "navy": "nvy",
    "with": "w/",
    "women": "wmn",
    "polyester": "poly",
    "limited": "ltd",
}


def assign_modalities(
    family: Family, facts: dict[str, tuple[str, ...]], rng: np.random.Generator, overlap: float
) -> dict[str, set[str]]:
    """The modalities ("picture", "title", "triples") of an item that contain each of its facts.

    With the same generator state the results are nested: a higher overlap only adds modalities.
    """
    assigned: dict[str, set[str]] = {}
    for name in facts:
        home, title, triples = rng.random(3)
        if name in TRIPLES_ONLY:
            assigned[name] = {"triples"}
            continue
        if name in VISIBLE or name == family.detail:
            found = {"picture"}
        else:
            found = {"title" if home < 0.5 else "triples"}
        if title < overlap:
            found.add("title")
        if triples < overlap:
            found.add("triples")
        assigned[name] = found
    return assigned


def write_triples(
    facts: dict[str, tuple[str, ...]], modalities: dict[str, set[str]], rng: np.random.Generator
) -> list[list[str]]:
    """The [property, value] pairs of the item's triples, in random order."""
    pairs = [
        [name, value]
        for name, values in facts.items()
        if "triples" in modalities[name]
        for value in values
    ]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def write_title(
    family: Family,
    category: Category,
    facts: dict[str, tuple[str, ...]],
    modalities: dict[str, set[str]],
    rng: np.random.Generator,
    overlap: float,
) -> str:
    """A seller's title: its facts in some order, a noun, and filler.

    The noun is the family's if it has one, or with probability `overlap` the category's own.
    """
    specific = rng.random() < overlap or not family.nouns
    noun = _pick(rng, category.nouns if specific else family.nouns)
    phrases = {
        name: _phrase(family, name, values, rng)
        for name, values in facts.items()
        if "title" in modalities[name]
    }
    lead = [phrases.pop(name) for name in _LEAD if name in phrases]
    tail_names = (*_TAIL, family.detail, family.measure)
    tail = _shuffled(rng, [phrases.pop(name) for name in tail_names if name in phrases])
    describe = _shuffled(rng, list(phrases.values()))
    layout = rng.random()
    if layout < 0.6:
        words = [*lead, *describe, noun, *tail]
    elif layout < 0.8:
        words = [*lead, noun, *describe, *tail]
    else:
        words = _shuffled(rng, [*lead, noun, *describe, *tail])
    for _ in range(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])):
        place = rng.choice([0, len(words), rng.integers(len(words) + 1)])
        words.insert(int(place), _pick(rng, _FILLERS))
    return _as_typed(" ".join(words), rng)


def _phrase(family: Family, name: str, values: tuple[str, ...], rng: np.random.Generator) -> str:
    """A fact in a seller's words."""
    text = " ".join(values)
    if name == family.detail:
        return f"no {name}" if text == "none" else f"{text} {name}"
    return _pick(rng, _PHRASES.get(name, ("{}",))).format(text)


def _as_typed(title: str, rng: np.random.Generator) -> str:
    """The title as typed: capitals, abbreviations, occasionally a typing error or an emoji."""
    case, abbreviates, typos, decorates = rng.random(4)
    words = title.split()
    if abbreviates < 0.12:
        words = [_SHORT.get(word, word) for word in words]
    if typos < 0.04:
        slip = int(rng.integers(len(words)))
        word = words[slip]
        at = int(rng.integers(max(1, len(word) - 1)))
        words[slip] = word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]
    title = " ".join(words)
    if case < 0.5:
        title = " ".join(word[:1].upper() + word[1:] for word in words)
    elif case < 0.6:
        title = title.upper()
    return f"{title} {_pick(rng, _EMOJI)}" if decorates < 0.05 else title


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _shuffled(rng: np.random.Generator, values: list[str]) -> list[str]:
    return [values[i] for i in rng.permutation(len(values))]
