"""The items of one split, read as they are asked for."""

from typing import Any, SupportsIndex

from absl import logging

from k3m_jax.data.records import Record
from k3m_jax.data.store import disk, integrity
from k3m_jax.modalities import REGISTRY
from k3m_jax.modalities.base import Feature
from k3m_jax.modalities.picture import Layout
from k3m_jax.settings import UserError

IDENTITY = ("id", "product", "category", "source")  # of an item, next to its modalities
UNREADABLE = 100  # records of a split that are left out, by default, before a run ends


class ProductSource:
    """Random access to the items of one split, in the order they are stored; pickles.

    An item that can't be read is one that lacks everything, named in a warning, so that one damaged
    record does not end every run at the same step.
    """

    def __init__(self, source: Any, name: str, layout: Layout, unreadable: int = UNREADABLE):
        """`source` gives TFDS examples, `name` the data; `unreadable` items may be so."""
        self._source, self._name, self._layout = source, name, layout
        self._modalities = dict(REGISTRY)  # a new process knows the library's own alone
        self._limit, self._unreadable = unreadable, set[int]()  # of this process

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self}")  # ends a for loop
        try:
            return self._read(index)
        except Exception as error:  # ArrayRecord and TFDS raise nearly anything
            if disk.disk_failure(error):
                raise
            self._bear(int(index), error)
            contents = {name: each.empty for name, each in self._modalities.items()}
            return Record(f"unreadable-{index}", f"unreadable-{index}", "", "", contents)

    def _bear(self, index: int, error: Exception) -> None:
        """Counts and names an unreadable item; raises UserError where there are too many."""
        if index in self._unreadable:
            return
        self._unreadable.add(index)
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        named = f"item {index} of {self} can't be read ({reason})"
        if (count := len(self._unreadable)) > self._limit:
            limit = f"{count} such items are more than data.unreadable {self._limit}"
            raise UserError(f"{named}: {limit}: {integrity.HINT}") from error
        logging.warning("%s: left out, %d of at most %d", named, count, self._limit)

    def _read(self, index: SupportsIndex) -> Record:
        example, contents = self._source[index], {}
        for name, modality in self._modalities.items():
            contents[name] = modality.empty
            features = modality.features(self._layout)
            if features.keys() <= example.keys():  # else stored before there was such a modality
                stored = {key: _decoded(feature, example[key]) for key, feature in features.items()}
                contents[name] = modality.from_features(stored)
        return Record(*(example[name].decode() for name in IDENTITY), contents)

    def __repr__(self) -> str:  # by it grain recognises a source when it restores an iterator
        return f"ProductSource({self._name})"


def _decoded(feature: Feature, value: Any) -> Any:
    if feature.dtype is not str:
        return value
    return [text.decode() for text in value] if feature.shape else value.decode()
