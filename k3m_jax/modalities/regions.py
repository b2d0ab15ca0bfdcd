"""A record's picture as the regions that the model takes in, for both front ends.

A fault found here, in a shard written long ago, must not end a run of days: the picture counts as
absent, and the log says so.
"""

import collections
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from k3m_jax.data.store.codebook import Codebook
from k3m_jax.modalities import pixels
from k3m_jax.settings import Image


@dataclasses.dataclass(frozen=True)
class Regions:
    """The n <= N regions of a picture."""

    inputs: np.ndarray  # [n, F]: uint8 pixels of patches, or float16 features
    boxes: np.ndarray  # [n, 4] float32: x1, y1, x2, y2 as shares of the picture
    class_ids: np.ndarray  # [n, c] int32, c as it is stored
    class_probs: np.ndarray  # [n, c] float32, summing to 1, or to 0 where no class is known


class RegionReader:
    """Adds `regions` to a record: a `Regions`, or None where the picture is absent or unusable.

    Pickles; safe to share between threads.
    """

    def __init__(self, image: Image, codebook: Codebook | None = None):
        """`codebook` is for patches whose stored classes are of another codebook than wanted."""
        self._image, self._codebook = image, codebook
        self._boxes = pixels.grid_boxes(image.grid) if image.front_end == "patches" else None
        self.faults = ErrorLog()

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record of a shard (see `shards.ProductSource`) -> the same with `regions`."""
        try:
            regions = self.read(record)
        except Exception as error:  # decoders of broken files raise nearly anything
            self.faults.add(type(error).__name__, f"{record['id']}: {error}")
            regions = None
        return {**record, "regions": regions}

    def read(self, record: Mapping[str, Any]) -> Regions | None:
        """The regions alone; what is wrong with a picture is raised, as whatever error it makes."""
        patches = self._image.front_end == "patches"
        return self._patches(record) if patches else self._detected(record)

    def _patches(self, record: Mapping[str, Any]) -> Regions | None:
        if not record["picture"]:
            return None
        patches = pixels.patchify(pixels.decode(record["picture"]), self._image.patch_size)
        ids = self._codebook.assign(patches) if self._codebook else record["class_ids"]
        if not len(patches) == len(ids) == self._image.regions:
            raise ValueError(
                f"{len(patches)} patches and {len(ids)} classes, not {self._image.regions}"
            )
        class_ids = np.asarray(ids, np.int32)[:, None]
        return Regions(patches, self._boxes, class_ids, np.ones(class_ids.shape, np.float32))

    def _detected(self, record: Mapping[str, Any]) -> Regions | None:
        boxes, features = record["boxes"], record["features"]
        if not len(boxes):
            return None
        probs = np.asarray(record["class_probs"], np.float32)
        ids = np.asarray(record["class_ids"], np.int32)
        if features.shape != (len(boxes), self._image.feature_dim) or len(probs) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes with features {features.shape}")
        if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
            raise ValueError("features or boxes that are not finite")
        if len(boxes) > self._image.regions:  # the detector's surest, in the order they came
            surest = np.argsort(-probs.max(-1, initial=0), kind="stable")[: self._image.regions]
            keep = np.sort(surest)
            boxes, features, ids, probs = boxes[keep], features[keep], ids[keep], probs[keep]
        if probs.shape[1] > self._image.top_classes:
            top = np.argsort(-probs, axis=1, kind="stable")[:, : self._image.top_classes]
            ids, probs = np.take_along_axis(ids, top, 1), np.take_along_axis(probs, top, 1)
        total = probs.sum(1, keepdims=True)
        probs = np.divide(probs, total, out=np.zeros_like(probs), where=total > 0)
        return Regions(features, np.asarray(boxes, np.float32), ids, probs)


class ErrorLog:
    """Counts faults by kind and logs the 1st, 10th, 100th … of each, so that logs stay short."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, detail: str) -> None:
        """Counts one; `detail` says which record."""
        with self._lock:
            self.counts[kind] += 1
            count = self.counts[kind]
        if count == 10 ** (len(str(count)) - 1):
            logging.warning("picture taken as absent (%s, %d so far): %s", kind, count, detail)

    def __reduce__(self):  # a lock does not travel to worker processes; each counts its own
        return ErrorLog, ()
