"""Pictures: untrusted bytes in, a small clean JPEG to store, pixels and patches to look at."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from k3m_jax.modalities.base import InvalidRecordError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 << 20  # of a picture's file
MAX_PIXELS = 100_000_000  # above every camera's; a bomb declares more
QUALITY = 90  # of the stored JPEG


def shrink(data: bytes, size: int, *, square: bool) -> bytes:
    """The picture as a JPEG of at most `size` pixels a side, ready to be stored.

    `square` letterboxes it on white to `size` x `size`; else it keeps its aspect, so that boxes
    given as shares still fit. Raises InvalidRecordError: bad_picture, too_large_picture.
    """
    image = upright(data, size)
    sides = tuple(max(1, round(side * (size / max(image.size)))) for side in image.size)
    image = image.resize(sides, Image.Resampling.LANCZOS, reducing_gap=3)
    if square:
        image = ImageOps.pad(image, (size, size), color="white")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def squeeze(data: bytes, size: int) -> np.ndarray:
    """All of the picture as a square, whatever its aspect: uint8 [size, size, 3].

    Raises InvalidRecordError: bad_picture, too_large_picture.
    """
    image = upright(data, size)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3))


def upright(data: bytes, size: int) -> Image.Image:
    """The picture, turned upright, on white where transparent, an animation's first frame.

    A JPEG is decoded no larger than it takes to shrink it to `size` pixels a side. Raises
    InvalidRecordError: bad_picture, too_large_picture.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRecordError("too_large_picture", f"{len(data)} bytes; at most {MAX_BYTES}")
    try:
        # Pillow warns of a bomb itself, but at its own limit, and only warns.
        with warnings.catch_warnings(action="ignore"), io.BytesIO(data) as file:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                detail = f"{image.width} x {image.height} pixels; at most {MAX_PIXELS}"
                raise InvalidRecordError("too_large_picture", detail)
            image.draft("RGB", (2 * size, 2 * size))  # a JPEG decodes straight to a smaller size
            image.load()
            return _on_white(ImageOps.exif_transpose(image))
    except InvalidRecordError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        bomb = isinstance(error, Image.DecompressionBombError)
        unknown = isinstance(error, UnidentifiedImageError)  # its words name an address in memory
        detail = f"none of {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        raise InvalidRecordError("too_large_picture" if bomb else "bad_picture", detail) from error


def decode(picture: bytes) -> np.ndarray:
    """Pixels of a stored picture: uint8 [height, width, 3], [S, S, 3] where it is square."""
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"))


def patchify(picture: np.ndarray, patch_size: int) -> np.ndarray:
    """Cuts [S, S, 3] into its grid of patches, row by row: [N, patch_size² · 3], N = (S / P)²."""
    S, P = picture.shape[0], patch_size
    if picture.shape != (S, S, 3) or S % P:
        raise ValueError(f"a picture of shape {picture.shape} is no grid of {P}-pixel patches")
    g = S // P
    return picture.reshape(g, P, g, P, 3).swapaxes(1, 2).reshape(g * g, P * P * 3)


def grid_boxes(patches: int) -> np.ndarray:
    """Boxes of N patches in `patchify`'s order: float32 [N, 4] (x1, y1, x2, y2), shares."""
    grid = round(patches**0.5)
    y, x = np.divmod(np.arange(patches), grid)
    return (np.stack([x, y, x + 1, y + 1], -1) / grid).astype(np.float32)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x1, y1, x2, y2): [n, 4] and [m, 4] to [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    areas = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    union = np.add.outer(*areas) - common
    return common / np.maximum(union, 1e-9)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # 32-bit whole numbers, most often of 16 bits, or floats
        return Image.fromarray(_bytes_of(np.asarray(image, np.float64))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _bytes_of(grey: np.ndarray) -> np.ndarray:
    """Grey values of an unknown scale as uint8; raises InvalidRecordError where none is likely."""
    low, high = grey.min(initial=0), grey.max(initial=0)
    scale = next((top for top in (1, 255, 65535) if high <= top), 0)
    if not (scale and low >= 0 and np.isfinite(grey).all()):
        raise InvalidRecordError("bad_picture", f"grey values from {low:g} to {high:g}")
    return np.round(grey * (255 / scale)).astype(np.uint8)
