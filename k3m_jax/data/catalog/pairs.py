"""Labelled pairs of items for product alignment: from a catalogue's folder to beside its shards.

A catalogue may hold `align_pairs.jsonl`, an object a line: `a` and `b`, the ids of two items of one
split; `label`, 1 where they are the same product, else 0; and, all optional, `split`, `kind` (how
the pair was found) and `a_image`, `b_image`: the pictures that the two are shown by, paths as in
products.jsonl. A picture that is not the item's first is a *view*, and is kept with the pairs.
"""

import collections
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    kind: str
    a_image: str  # path of the picture it is shown by; in a data set "" where it is the item's own
    b_image: str


class PairedItem(NamedTuple):
    """What is asked of a stored item that pairs name."""

    split: str
    picture: str  # path
    product: str
    category: str
    source: str


Line = tuple[int, Pair | InvalidRecordError]  # its number and what it says


def read_pairs(folder: epath.PathLike, own_splits: bool = True) -> list[Line]:
    """The lines of a catalogue's pairs; none where it has no such file.

    Args:
      folder: of the catalogue.
      own_splits: whether a pair must be of the split that it names; else its items decide alone.
    """
    path = epath.Path(folder) / PAIRS
    if not path.exists():
        return []
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    parsed = ((number, _parse(line)) for number, line in lines if line.strip())
    if own_splits:
        return list(parsed)
    return [
        (number, dataclasses.replace(pair, split="") if isinstance(pair, Pair) else pair)
        for number, pair in parsed
    ]


def paired_ids(lines: Iterable[Line]) -> frozenset[str]:
    """The items that pairs name."""
    pairs = (pair for _, pair in lines if isinstance(pair, Pair))
    return frozenset(item for pair in pairs for item in (pair.a, pair.b))


class ResolvedPairs(NamedTuple):
    """What becomes of a catalogue's pairs."""

    pairs: list[Pair]
    views: dict[str, bytes]  # by path
    rejects: list[RejectedLine]
    repaired: collections.Counter[str]  # pairs that were put right, by kind

    def write(self, folder: epath.Path) -> None:
        """Writes pairs and views beside the shards; nothing where there are none."""
        if not self.pairs:
            return
        lines = (json.dumps(dataclasses.asdict(p), ensure_ascii=False) for p in self.pairs)
        (folder / PAIRS).write_text("\n".join([*lines, ""]), encoding="utf-8")
        lengths = [len(data) for data in self.views.values()]
        with io.BytesIO() as file:
            np.savez(
                file,
                paths=np.array(list(self.views), np.str_),
                ends=np.cumsum(lengths, dtype=np.int64),
                data=np.frombuffer(b"".join(self.views.values()), np.uint8),
            )
            (folder / VIEWS).write_bytes(file.getvalue())


def resolve_pairs(
    lines: Sequence[Line],
    items: Mapping[str, PairedItem],
    read_view: Callable[[str], bytes],
    match_anew: bool = False,
) -> ResolvedPairs:
    """The pairs of items that are stored, both in the pair's split; the others are set aside.

    Args:
      lines: of `read_pairs`.
      items: those that were stored, by id.
      read_view: the picture at a path as it is stored, b"" where there is none; raises
        RejectedRecord.
      match_anew: whether negative pairs that are split apart leave others in their place.
    """
    kept, given = ResolvedPairs([], {}, [], collections.Counter()), len(lines)
    anew = _rematch_negatives(lines, items) if match_anew else []
    for place, (number, pair) in enumerate([*lines, *anew]):
        try:
            if isinstance(pair, InvalidRecordError):
                raise pair
            pair = _checked(pair, items)
            for path in (pair.a_image, pair.b_image):
                if path and path not in kept.views:
                    kept.views[path] = _read_view(path, read_view)
            kept.pairs.append(pair)
            if place >= given:
                kept.repaired["negative_pair_matched_anew"] += 1
        except InvalidRecordError as rejected:
            kept.rejects.append(RejectedLine(PAIRS, number, rejected.reason, rejected.detail))
    return kept


def _rematch_negatives(lines: Iterable[Line], items: Mapping[str, PairedItem]) -> list[Line]:
    """Negative pairs of one split, made of the halves of those that are split apart.

    Splits never part a product, so that folds keep every positive pair, but a negative one of two
    products by chance alone: a fifth that is held out would have a fifth of the positive pairs and
    a twenty-fifth of the negative ones. So the first half of a parted pair meets the second half
    of another: of its split and kind, of its category where the halves of both pairs shared one,
    else of another category, and always of another product. Some halves find none.
    """
    firsts, seconds = collections.defaultdict(list), collections.defaultdict(list)
    for number, pair in lines:
        if (
            isinstance(pair, InvalidRecordError)
            or pair.label
            or not {pair.a, pair.b} <= items.keys()
        ):
            continue
        a, b = items[pair.a], items[pair.b]
        if a.split != b.split:
            alike = a.category if a.category == b.category else None
            kind = (pair.kind, alike, a.source, b.source)
            firsts[a.split, kind].append((number, pair))
            seconds[b.split, kind].append(pair)
    found = []
    for key, halves in firsts.items():
        _, (_, alike, *_) = key
        left = seconds[key]
        for number, first in halves:
            a = items[first.a]
            for i in reversed(range(len(left))):
                b = items[left[i].b]
                if a.product != b.product and (alike is not None or a.category != b.category):
                    second = left.pop(i)
                    pair = dataclasses.replace(first, b=second.b, b_image=second.b_image)
                    found.append((number, pair))
                    break
    return found


def stored_pairs(folder: epath.Path) -> list[Pair]:
    """The pairs beside shards, in their order; none where their catalogue had none."""
    if not (folder / PAIRS).exists():
        return []
    # They end at line feeds alone, as in a catalogue.
    lines = (folder / PAIRS).read_text(encoding="utf-8").split("\n")
    return [Pair(**json.loads(line)) for line in lines if line]


def stored_views(folder: epath.Path) -> dict[str, bytes]:
    """The pictures beside shards that pairs are shown by, by path."""
    if not (folder / VIEWS).exists():
        return {}
    with np.load(io.BytesIO((folder / VIEWS).read_bytes())) as arrays:
        data = arrays["data"].tobytes()
        places = itertools.pairwise([0, *arrays["ends"].tolist()])
        return {
            path: data[start:end]
            for path, (start, end) in zip(arrays["paths"].tolist(), places, strict=True)
        }


def _parse(line: bytes) -> Pair | InvalidRecordError:
    try:
        told = json.loads(line)
    except ValueError as error:
        return InvalidRecordError("bad_pair", str(error))
    if not isinstance(told, dict):
        return InvalidRecordError("bad_pair", f"the line is {type(told).__name__}, not an object")
    texts = {key: told.get(key) or "" for key in ("split", "a", "b", "kind", "a_image", "b_image")}
    wrong = [key for key, value in texts.items() if not isinstance(value, str)]
    if wrong or not (texts["a"] and texts["b"]) or told.get("label") not in (0, 1):
        return InvalidRecordError("bad_pair", "a and b must be ids, label 0 or 1, all else text")
    return Pair(label=int(told["label"]), **texts)


def _checked(pair: Pair, items: Mapping[str, PairedItem]) -> Pair:
    """The pair with its split, and its views alone as pictures."""
    changes: dict[str, Any] = {}
    for item in (pair.a, pair.b):
        if item not in items:
            raise InvalidRecordError("pair_of_unknown_item", f"no item {item!r} is stored")
    splits = {items[pair.a].split, items[pair.b].split, pair.split or items[pair.a].split}
    if len(splits) > 1:
        # A held-out pair of which one half is trained on measures memory.
        detail = f"{pair.a!r} and {pair.b!r} are of the splits {', '.join(sorted(splits))}"
        raise InvalidRecordError("pair_split_apart", detail)
    for key, item in (("a_image", pair.a), ("b_image", pair.b)):
        if getattr(pair, key) == items[item].picture:
            changes[key] = ""
    return dataclasses.replace(pair, split=splits.pop(), **changes)


def _read_view(path: str, read_view: Callable[[str], bytes]) -> bytes:
    if view := read_view(path):
        return view
    raise InvalidRecordError("pair_of_unknown_picture", f"{path!r} is not there")
