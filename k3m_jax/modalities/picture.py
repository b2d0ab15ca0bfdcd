"""The picture of a product: patches of its pixels, or the regions of a detector."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from k3m_jax.modalities import base, pixels

# Of an object that stands for a picture, the first that it has: bytes, a path, an address.
OBJECT_KEYS = ("bytes", "path", "file", "src", "url", "link", "hi_res", "large", "thumb")


class Layout(NamedTuple):
    """How the pictures of a data set are stored."""

    front_end: str  # patches or regions
    feature_dim: int  # F
    top_classes: int  # c: classes kept per region


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A stored picture: a JPEG, with classes of its patches or with a detector's regions."""

    jpeg: bytes = b""
    class_ids: np.ndarray | None = None  # int32: [N] of patches, [n, c] of regions
    # Of a detector alone; n = 0 where it has found nothing.
    boxes: np.ndarray | None = None  # [n, 4] float32: x1, y1, x2, y2 as shares of the picture
    features: np.ndarray | None = None  # [n, F] float16
    class_probs: np.ndarray | None = None  # [n, c] float16, sums less than 1


class Regions(NamedTuple):
    """The n <= N regions of a picture as a batch wants them; n = 0 where it is absent."""

    inputs: np.ndarray  # [n, F]: uint8 pixels of patches, or float16 features
    boxes: np.ndarray  # [n, 4] float32: x1, y1, x2, y2 as shares of the picture
    class_ids: np.ndarray  # [n, c] int32, c as it is stored
    class_probs: np.ndarray  # [n, c] float32, summing to 1, or to 0 where no class is known


@dataclasses.dataclass(frozen=True)
class PictureModality(base.Modality):
    """Regions of a picture, in a grid (patches) or where a detector found them."""

    name: ClassVar[str] = "image"
    keys: ClassVar[tuple[str, ...]] = ("images",)
    empty: ClassVar[Picture] = Picture()

    image: Any  # the settings `image`

    @classmethod
    def parse(cls, line: Mapping[str, Any], repairs: list[str]) -> tuple[str | bytes, ...]:
        """Paths or bytes of pictures: the first that loads is the item's, others are views."""
        images = line.get("images")
        if isinstance(images, (str, bytes, Mapping)):
            repairs.append("single_picture: images is no list")
            images = (images,)
        elif not isinstance(images, (list, tuple, type(None))):
            repairs.append(f"wrong_type: images is {images!r:.40}, not a list")
            images = None
        found = []
        for i, image in enumerate(images or ()):
            key = f"images[{i}]"
            if isinstance(image, Mapping):
                repairs.append(f"object_as_picture: {key} is an object")
                image = reference(image)
            elif not image:
                repairs.append(f"empty_picture: {key} is {image!r}")
            numbers = isinstance(image, (bool, int, float, list, tuple))
            if numbers:
                repairs.append(f"wrong_type: {key} is {image!r:.40}, not a path")
            elif image:
                is_bytes = isinstance(image, bytes)
                found.append(image if is_bytes else base.clean_text(image, key, repairs))
        return tuple(filter(None, found))

    @classmethod
    def store(cls, source: tuple[str | bytes, ...], item: str, tools: Any) -> Picture:
        return tools.picture(source, item)

    @classmethod
    def features(cls, layout: Layout) -> dict[str, base.Feature]:
        jpeg, c = {"picture": base.Feature((), bytes)}, layout.top_classes
        if layout.front_end == "patches":
            return jpeg | {"class_ids": base.Feature((None,), np.int32)}
        regions = jpeg | {
            "boxes": base.Feature((None, 4), np.float32),
            "features": base.Feature((None, layout.feature_dim), np.float16),
        }
        if not c:  # arrays of no size can be written, and not be read
            return regions
        return regions | {
            "class_ids": base.Feature((None, c), np.int32),
            "class_probs": base.Feature((None, c), np.float16),
        }

    @classmethod
    def to_features(cls, content: Picture) -> dict[str, Any]:
        fields = {k: v for k, v in vars(content).items() if v is not None}
        if content.class_probs is not None and not content.class_probs.shape[1]:
            del fields["class_ids"], fields["class_probs"]
        return {"picture" if k == "jpeg" else k: v for k, v in fields.items()}

    @classmethod
    def from_features(cls, stored: Mapping[str, Any]) -> Picture:
        names = ("class_ids", "boxes", "features", "class_probs")
        if "boxes" in stored and "class_ids" not in stored:  # of a detector that names no classes
            none = np.zeros((len(stored["boxes"]), 0))
            classes = {"class_ids": none.astype(np.int32), "class_probs": none.astype(np.float16)}
            stored = {**stored, **classes}
        return Picture(stored["picture"], *(stored.get(name) for name in names))

    @classmethod
    def is_present(cls, content: Picture) -> bool:
        return bool(len(content.boxes) if content.boxes is not None else content.jpeg)

    @classmethod
    def sizes(cls, content: Picture) -> dict[str, int]:
        if content.boxes is None:
            return {}
        classes = int(content.class_ids.max(initial=-1)) + 1
        return {"regions": len(content.boxes), "classes": classes}

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        return cls(settings.image)

    @property
    def arrays(self) -> dict[str, base.Array]:
        N, F, P = self.image.regions, self.image.feature_dim, self.image.patch_size
        dtype, meaning = np.float16, "the detector's features"
        if self.image.front_end == "patches":
            F, dtype = P**2 * 3, np.uint8
            meaning = f"pixels 0 to 255 of each {P} x {P} x 3 patch; pixels and patches row by row"
        box = "x1, y1, x2, y2, area as shares of the picture; row 0 is 0, 0, 1, 1, 1"
        valid = "valid regions, row 0 the whole picture; none where the picture is absent"
        return {
            "region_inputs": base.Array((N, F), dtype, meaning),
            "region_boxes": base.Array((N + 1, 5), np.float32, box),
            "region_mask": base.Array((N + 1,), bool, valid),
        }

    def blank(self, arrays: Mapping[str, np.ndarray]) -> None:
        arrays["region_boxes"][:, 0] = (0, 0, 1, 1, 1)  # of the global region

    def encode(self, contents, tokenizer, generators) -> Regions:
        """The regions; raises ValueError, or what a decoder raises, for a damaged picture."""
        picture: Picture = contents["image"]
        if not self.is_present(picture):
            inputs, boxes = np.zeros((0, *self.arrays["region_inputs"].shape[1:])), np.zeros((0, 4))
            return Regions(inputs, boxes, np.zeros((0, 0), np.int32), np.zeros((0, 0)))
        patches = self.image.front_end == "patches"
        return self._patches(picture) if patches else self._detected(picture)

    def _patches(self, picture: Picture) -> Regions:
        patches = pixels.patchify(pixels.decode(picture.jpeg), self.image.patch_size)
        known, N = picture.class_ids is not None, self.image.regions
        ids = np.asarray(picture.class_ids if known else np.zeros(len(patches)), np.int32)
        if not len(patches) == len(ids) == N:
            raise ValueError(f"{len(patches)} patches and {len(ids)} classes, not {N}")
        probs = np.full((N, 1), known, np.float32)
        return Regions(patches, pixels.grid_boxes(N), ids[:, None], probs)

    def _detected(self, picture: Picture) -> Regions:
        boxes, features = picture.boxes, picture.features
        probs = np.asarray(picture.class_probs, np.float32)
        ids = np.asarray(picture.class_ids, np.int32)
        if features.shape != (len(boxes), self.image.feature_dim) or len(probs) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes with features {features.shape}")
        if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
            raise ValueError("features or boxes that are not finite")
        if len(boxes) > self.image.regions:  # the most confident ones, in the detector's order
            best = np.argsort(-probs.max(-1, initial=0), kind="stable")[: self.image.regions]
            keep = np.sort(best)
            boxes, features, ids, probs = boxes[keep], features[keep], ids[keep], probs[keep]
        if probs.shape[1] > (c := self.image.top_classes):
            top = np.argsort(-probs, axis=1, kind="stable")[:, :c]
            ids, probs = np.take_along_axis(ids, top, 1), np.take_along_axis(probs, top, 1)
        total = probs.sum(1, keepdims=True)
        probs = np.divide(probs, total, out=np.zeros_like(probs), where=total > 0)
        return Regions(features, np.asarray(boxes, np.float32), ids, probs)

    def write(self, row: base.Row, encoded: Regions) -> None:
        n, boxes = len(encoded.boxes), encoded.boxes
        row["region_inputs"][:n] = encoded.inputs
        row["region_boxes"][1 : n + 1, :4] = boxes
        row["region_boxes"][1 : n + 1, 4] = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        row["region_mask"][: n + 1] = n > 0

    def describe(self, row: base.Row, tokenizer: Any) -> str:
        regions = int(row["region_mask"][1:].sum())
        return f"{regions} regions" if regions else ""


def reference(image: Mapping[str, Any]) -> Any:
    """What an object says of a picture: its bytes, path or address; None where it says nothing."""
    return next((image[name] for name in OBJECT_KEYS if image.get(name)), None)


def float_features(inputs: Any) -> Any:
    """Inputs [..., F] of NumPy or jax as float32: pixels from -1 to 1, features as they are."""
    floats = inputs.astype("float32")
    return floats / 127.5 - 1 if inputs.dtype == np.uint8 else floats
