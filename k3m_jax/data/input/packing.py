"""Packed text: a batch's texts one after another in rows of one length, instead of padding each.

Texts are packed per *pack*, a block of adjacent items of one device, so that devices and hosts make
their own rows. Attention stays within each text, so that packing changes no result but the order of
sums, and which dropout a token draws. Equal candidates of a pack are one text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from k3m_jax.modalities.base import Array
from k3m_jax.settings import Settings
from k3m_jax.settings.presets import PRESETS

LINK = "link"  # candidates, the only texts that items share
ALIGNMENT = 8  # a row's length is a multiple of it
STEP = 0.25  # of the rows, by which a batch that needs more gets more


@dataclasses.dataclass(frozen=True)
class TextPacking:
    """How the texts `names` of each `items` items share `rows` rows of `length` tokens.

    Of n packs of I items, and r rows each, a batch holds
    `packed_tokens`, `packed_segments`, `packed_positions` [n r, length]: a token, the number of its
    text in the row, from 1 (0: nothing), and its position in the text;
    `NAME_start` [n I, …]: where the tokens of a text begin in its pack's r * length places.
    """

    names: tuple[str, ...]
    items: int
    rows: int
    length: int

    @classmethod
    def of(cls, settings: Settings, arrays: Mapping[str, Array]) -> Self | None:
        """Of a run whose batches hold `arrays`; None where its texts are padded."""
        chosen = settings.packing
        names = text_names(settings, arrays)
        if not (chosen.texts and chosen.products and chosen.rows and names):
            return None
        return cls(names, chosen.products, chosen.rows, row_length(names, arrays))

    @property
    def slots(self) -> int:
        """Tokens that a pack has room for."""
        return self.rows * self.length

    def spec(
        self, items: int, arrays: Mapping[str, Array]
    ) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array that is added to a batch of `items` items."""
        shape, kind = (items // self.items * self.rows, self.length), np.dtype(np.int32)
        found = {f"packed_{name}": (shape, kind) for name in ("tokens", "segments", "positions")}
        starts = {name: arrays[f"{name}_tokens"].shape[:-1] for name in self.names}
        return found | {f"{name}_start": ((items, *s), kind) for name, s in starts.items()}

    def pack(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays to add to a padded batch: more rows than `rows` a pack where one needs them.

        Its number of items must be a multiple of `items`.
        """
        packs = len(batch[f"{self.names[0]}_tokens"]) // self.items
        laid = [
            Pack(
                {
                    name: tuple(
                        batch[f"{name}_{part}"][i * self.items : (i + 1) * self.items]
                        for part in ("tokens", "mask")
                    )
                    for name in self.names
                },
                self.length,
            )
            for i in range(packs)
        ]
        rows = enough_rows(self.rows, max(pack.rows for pack in laid))
        shape = (packs, rows, self.length)
        arrays = {f"packed_{name}": np.zeros(shape, np.int32) for name in Pack.ARRAYS}
        for i, pack in enumerate(laid):
            for name in Pack.ARRAYS:
                arrays[f"packed_{name}"][i].reshape(-1)[pack.places] = getattr(pack, name)
        arrays = {name: array.reshape(-1, self.length) for name, array in arrays.items()}
        starts = {n: np.concatenate([pack.starts[n] for pack in laid]) for n in self.names}
        return arrays | {f"{name}_start": array for name, array in starts.items()}

    def rows_of(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many rows a pack of a batch of `pack` has."""
        packs = len(batch[f"{self.names[0]}_tokens"]) // self.items
        return len(batch["packed_tokens"]) // packs

    def widened(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """The same batch with `rows` rows a pack, at least what it has."""
        added = rows - (own := self.rows_of(batch))
        if not added:
            return dict(batch)
        arrays = {}
        for name in (f"packed_{name}" for name in Pack.ARRAYS):
            packs = batch[name].reshape(-1, own, self.length)
            arrays[name] = np.pad(packs, [(0, 0), (0, added), (0, 0)]).reshape(-1, self.length)
        return {**batch, **arrays}


class Pack:
    """The texts of one pack in as few rows as first-fit of the longest first finds.

    `tokens`, `segments` and `positions` [t] are of all tokens, `places` [t] are where they stand,
    `starts` as in `TextPacking`, and `rows` is how many there are.
    """

    ARRAYS = ("tokens", "segments", "positions")

    def __init__(self, texts: Mapping[str, tuple[np.ndarray, np.ndarray]], length: int):
        """`texts` are (tokens, mask) by name, [I, …, S] both; S is at most `length`."""
        tokens, lengths, sizes = [], [], {}
        for name, (values, mask) in texts.items():
            size = mask.sum(-1)
            sizes[name], flat = size.shape, size.reshape(-1)
            lengths.append(flat)
            # Row after row: the tokens of all texts one after another.
            tokens.append(values.reshape(-1, values.shape[-1])[mask.reshape(-1, mask.shape[-1])])
        count = [len(each) for each in lengths]
        words, lengths = np.concatenate(tokens), np.concatenate(lengths)
        begins = np.cumsum(lengths) - lengths
        same = self._first_of_equals(list(texts), count, words, begins, lengths)
        order = np.argsort(-lengths, kind="stable").tolist()
        row, column, number, self.rows = first_fit(
            lengths.tolist(), [text for text in order if same[text] == text], length
        )
        starts = (row * length + column)[same]
        ends = np.cumsum(count)[:-1]
        self.starts = {
            name: part.reshape(sizes[name]).astype(np.int32)
            for name, part in zip(texts, np.split(starts, ends), strict=True)
        }
        kept = np.flatnonzero((same == np.arange(len(same))) & (lengths > 0))
        own = np.repeat(kept, lengths[kept])
        self.positions = np.arange(len(own)) - np.repeat(
            np.cumsum(lengths[kept]) - lengths[kept], lengths[kept]
        )
        self.tokens = words[begins[own] + self.positions]
        self.segments, self.places = number[own], starts[own] + self.positions

    @staticmethod
    def _first_of_equals(
        names: Sequence[str],
        count: Sequence[int],
        words: np.ndarray,
        begins: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        """Of each text the first that is the same; only candidates are compared."""
        same = np.arange(len(lengths))
        if LINK not in names:
            return same
        first = sum(count[: names.index(LINK)])
        seen: dict[bytes, int] = {}
        for text in range(first, first + count[names.index(LINK)]):
            begin = begins[text]
            key = words[begin : begin + lengths[text]].tobytes()
            same[text] = seen.setdefault(key, text)
        return same


def first_fit(
    lengths: Sequence[int], order: Sequence[int], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Puts texts, in `order`, each into the first row that has room.

    Returns row, column and number in the row (from 1) of each text, and how many rows there are.
    What has no token takes no place.
    """
    row, column, number = (np.zeros(len(lengths), np.int64) for _ in range(3))
    used, held = [], []
    # Of texts in falling order of length, no row before the last text's can be free for an equal
    # one; a row that is full stays so.
    first, previous = 0, 0
    for text in order:
        size = lengths[text]
        if not size:
            break
        if size != previous:
            first, previous = 0, size
        while first < len(used) and used[first] + size > length:
            first += 1
        if first == len(used):
            used.append(0)
            held.append(0)
        held[first] += 1
        row[text], column[text], number[text] = first, used[first], held[first]
        used[first] += size
    return row, column, number, len(used)


def enough_rows(rows: int, needed: int) -> int:
    """`rows`, or the first of a few larger numbers that is enough: each is another program."""
    step = max(1, round(STEP * rows))
    return rows + max(0, -(-(needed - rows) // step)) * step


def text_names(settings: Settings, arrays: Mapping[str, Array]) -> tuple[str, ...]:
    """The texts of a batch that the run's model reads packed."""
    names = PRESETS[settings.model.preset].packed
    # A task's candidates are encoded by themselves.
    own = (n for n in names if not (n == LINK and settings.task.downstream))
    return tuple(name for name in own if f"{name}_tokens" in arrays)


def row_length(names: Sequence[str], arrays: Mapping[str, Array]) -> int:
    """Tokens of a row: what the longest text needs."""
    longest = max(arrays[f"{name}_tokens"].shape[-1] for name in names)
    return -(-longest // ALIGNMENT) * ALIGNMENT
