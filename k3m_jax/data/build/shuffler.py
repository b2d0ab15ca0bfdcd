"""Records in a random order that depends on their keys alone, also of more than memory holds."""

import collections
import os
import pathlib
import pickle
from collections.abc import Iterator

from tensorflow_datasets.core import hashing

BUCKETS = 1024  # by the first bits of the hash; one at a time is sorted in memory
HELD = 256 << 20  # bytes in memory before all of them go to their buckets' files


class Shuffler:
    """Takes values under keys, gives them back in the order of the keys' hashes.

    The hash is the one that TFDS's own shuffling takes, so that its Beam writer makes the same
    order. Its shuffling on one machine needs TensorFlow for what does not fit in memory.

    Attributes:
      items: how many there are.
      bytes: of their values.
    """

    def __init__(self, folder: os.PathLike, salt: str):
        """`folder` is a local one for what does not fit in memory; `salt` makes another order."""
        self._folder, self._hasher = pathlib.Path(folder), hashing.Hasher(salt)
        self._held: dict[int, list[tuple[int, bytes]]] = collections.defaultdict(list)
        self._held_bytes = self.items = self.bytes = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Takes a value; its key must be new."""
        order = self._hasher.hash_key(key)
        self._held[order * BUCKETS >> 128].append((order, value))
        self.items += 1
        self.bytes += len(value)
        self._held_bytes += len(value)
        if self._held_bytes > HELD:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """All values, once: what was on disk is gone afterwards."""
        for bucket in range(BUCKETS):
            pairs, path = self._held.pop(bucket, []), self._path(bucket)
            if path.exists():
                with path.open("rb") as file:
                    while file.peek(1):
                        pairs += pickle.load(file)
                path.unlink()
            yield from (value for _, value in sorted(pairs))

    def _spill(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for bucket, pairs in self._held.items():
            with self._path(bucket).open("ab") as file:
                pickle.dump(pairs, file)
        self._held.clear()
        self._held_bytes = 0

    def _path(self, bucket: int) -> pathlib.Path:
        return self._folder / f"{bucket:04}"
