"""Labelled pairs of items for product alignment: as a catalog's folder holds them, and as stored.

A line of a catalog's `align_pairs.jsonl` is a `Pair`; `a`, `b` and `label` are required. A picture
that is not the item's first is a *view*, and is stored with the pairs.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from k3m_jax.data.records import InvalidRecordError, RejectedLine

PAIRS, VIEWS = "align_pairs.jsonl", "align_views.npz"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two items that may be one product."""

    split: str
    a: str
    b: str
    label: int  # 1 where they are
    kind: str  # how the pair was found
    a_image: str  # path of the picture that shows it; in a data set "" where it is the item's own
    b_image: str


class PairedItem(NamedTuple):
    """What pairs need to know of a stored item."""

    split: str
    picture: str  # path
    product: str
    category: str
    source: str


Line = tuple[int, Pair]  # its number and what it says


def read_pairs(folder: str, own_splits: bool = True) -> tuple[list[Line], list[RejectedLine]]:
    """The lines of a catalog's pairs, none where it has no such file, and those that are no pairs.

    Without `own_splits` their items alone decide on the split.
    """
    pairs, rejects = [], []
    for number, line in _lines(epath.Path(folder)):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict) or fields.get("label") not in (0, 1):
                raise ValueError("a pair is an object with a label, 0 or 1")
            keys = [field.name for field in dataclasses.fields(Pair) if field.type is str]
            texts = {key: _text(fields.get(key), number=key in "ab") for key in keys}
            if not (texts["a"] and texts["b"]):
                raise ValueError("a and b must be ids")
            texts["split"] *= own_splits
            pairs.append((number, Pair(label=int(fields["label"]), **texts)))
        except UnicodeEncodeError:
            detail = "half a character of two, a lone surrogate"
            rejects.append(RejectedLine(PAIRS, number, "not_unicode", detail))
        except (ValueError, RecursionError) as error:
            rejects.append(RejectedLine(PAIRS, number, "bad_pair", str(error)))
    return pairs, rejects


class ResolvedPairs(NamedTuple):
    """What becomes of a catalog's pairs."""

    pairs: list[Pair]
    views: dict[str, bytes]  # JPEG by path
    rejects: list[RejectedLine]
    rematched: int  # of the pairs, by `_rematch_negatives`

    def write(self, folder: epath.Path) -> None:
        """Writes pairs and views; nothing where there are no pairs."""
        if not self.pairs:
            return
        lines = (json.dumps(dataclasses.asdict(p), ensure_ascii=False) for p in self.pairs)
        (folder / PAIRS).write_text("\n".join([*lines, ""]), encoding="utf-8")
        with (folder / VIEWS).open("wb") as file:
            np.savez(
                file,
                paths=np.array(list(self.views), np.str_),
                ends=np.cumsum([len(view) for view in self.views.values()], dtype=np.int64),
                data=np.frombuffer(b"".join(self.views.values()), np.uint8),
            )


def stored_pairs(folder: epath.Path) -> list[Pair]:
    """The pairs in their order; none where their catalog had none."""
    return [Pair(**json.loads(line)) for _, line in _lines(folder)]


def stored_views(folder: epath.Path) -> dict[str, bytes]:
    """The pictures that pairs are shown by, other than the items' own, by path."""
    with (folder / VIEWS).open("rb") as file, np.load(file) as arrays:
        data, bounds = arrays["data"].tobytes(), itertools.pairwise([0, *arrays["ends"].tolist()])
        return dict(zip(arrays["paths"].tolist(), (data[a:b] for a, b in bounds), strict=True))


def resolve_pairs(
    lines: Sequence[Line],
    items: Mapping[str, PairedItem],
    read_view: Callable[[str], bytes],
    rematch: bool = False,
) -> ResolvedPairs:
    """The pairs of stored `items`, by id, both in the pair's split; the others are set aside.

    `read_view` gives the picture at a path, b"" where there is none, or raises InvalidRecordError.
    With `rematch`, others replace the negative pairs that are split apart.
    """
    pairs, views, rejects, rematched = [], {}, [], 0
    added = _rematch_negatives(lines, items) if rematch else ()
    for i, (number, pair) in enumerate(itertools.chain(lines, added)):
        try:
            pair = _checked(pair, items)
            for path in (pair.a_image, pair.b_image):
                if path and path not in views:
                    if not (view := read_view(path)):
                        detail = f"{path!r} is not there, or not a first picture with its regions"
                        raise InvalidRecordError("pair_of_unknown_picture", detail)
                    views[path] = view
            pairs.append(pair)
            rematched += i >= len(lines)
        except InvalidRecordError as error:
            rejects.append(RejectedLine(PAIRS, number, *error.args))
    return ResolvedPairs(pairs, views, rejects, rematched)


def _text(value: Any, *, number: bool) -> str:
    """A text, "" for None; ids are whole numbers, too, as in products.jsonl."""
    if number and type(value) is int:
        value = str(value)
    if not isinstance(value, str | None):
        raise ValueError("a and b must be ids, and all but the label text")
    (value or "").encode()
    return value or ""


def _lines(folder: epath.Path) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, with their numbers. They end at line feeds alone."""
    if (folder / PAIRS).exists():
        for number, line in enumerate((folder / PAIRS).read_bytes().split(b"\n"), 1):
            if line.strip():
                yield number, line


def _checked(pair: Pair, items: Mapping[str, PairedItem]) -> Pair:
    """The pair with its split, and with pictures only where they are views."""
    for item in (pair.a, pair.b):
        if item not in items:
            raise InvalidRecordError("pair_of_unknown_item", f"no item {item!r} is stored")
    a, b = items[pair.a], items[pair.b]
    if len(splits := {a.split, b.split, pair.split or a.split}) > 1:
        # A held-out pair of which one half is trained on would measure memory.
        detail = f"{pair.a!r} and {pair.b!r} are of the splits {', '.join(sorted(splits))}"
        raise InvalidRecordError("pair_split_apart", detail)
    return dataclasses.replace(
        pair,
        split=a.split,
        a_image="" if pair.a_image == a.picture else pair.a_image,
        b_image="" if pair.b_image == b.picture else pair.b_image,
    )


def _rematch_negatives(lines: Sequence[Line], items: Mapping[str, PairedItem]) -> Iterator[Line]:
    """Negative pairs of one split, made of the halves of those that are split apart.

    Folds keep every positive pair, but a negative one by chance: a fifth held out would have a
    fifth of the positive pairs and a twenty-fifth of the negative ones. So the first half of a
    parted pair meets the second half of another: of its split and kind, of its category where the
    halves of both pairs shared one, else of another category, and always of another product.
    """
    firsts, seconds = collections.defaultdict(list), collections.defaultdict(list)
    for number, pair in lines:
        if not pair.label and {pair.a, pair.b} <= items.keys():
            a, b = items[pair.a], items[pair.b]
            if a.split != b.split:
                shared = a.category if a.category == b.category else None
                kind = (shared, pair.kind, a.source, b.source)
                firsts[a.split, kind].append((number, pair))
                seconds[b.split, kind].append(pair)
    for key, halves in firsts.items():
        shared, left = key[1][0], seconds[key]
        for number, first in halves:
            a = items[first.a]
            for i in reversed(range(len(left))):
                b = items[left[i].b]
                if a.product != b.product and (shared is not None or a.category != b.category):
                    second = left.pop(i)
                    yield number, dataclasses.replace(first, b=second.b, b_image=second.b_image)
                    break
