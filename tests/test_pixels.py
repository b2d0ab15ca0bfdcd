"""Pictures: whatever a shop's dump holds, or a clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from k3m_jax.data.records import InvalidRecordError
from k3m_jax.modalities import pixels

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, format_="PNG", **options):
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def shrunk(image, size=64, square=True, format_="PNG", **options):
    return pixels.decode(pixels.shrink(encoded(image, format_, **options), size, square=square))


def close(pixel, colour):
    """The same colour but for JPEG's rounding."""
    return np.abs(pixel.astype(int) - colour).max() <= 12


def test_letterboxed_on_white():
    out = shrunk(Image.new("RGB", (200, 100), RED))
    assert out.shape == (64, 64, 3)
    assert out.dtype == np.uint8
    assert close(out[4, 32], WHITE)
    assert close(out[60, 32], WHITE)
    assert close(out[32, 4], RED)
    assert close(out[32, 60], RED)


def test_keeps_aspect_where_boxes_must_fit():
    assert shrunk(Image.new("RGB", (200, 100), RED), square=False).shape == (32, 64, 3)


def test_small_pictures_are_enlarged_and_slim_ones_survive():
    assert shrunk(Image.new("RGB", (3, 2), RED)).shape == (64, 64, 3)
    assert shrunk(Image.new("RGB", (1000, 1), RED), square=False).shape == (1, 64, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "format_", "expected"),
    [
        ("L", 0, "PNG", (0, 0, 0)),
        ("1", 1, "PNG", WHITE),
        ("LA", (0, 0), "PNG", WHITE),
        ("RGBA", (255, 0, 0, 0), "PNG", WHITE),
        ("RGBA", (255, 0, 0, 255), "PNG", RED),
        ("RGBA", (0, 0, 0, 128), "WEBP", (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "JPEG", RED),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("P", 0, "GIF", (0, 0, 0)),
        ("I;16", 32768, "PNG", (128, 128, 128)),
        ("RGB", BLUE, "BMP", BLUE),
    ],
)
def test_modes_and_formats(mode, colour, format_, expected):
    out = shrunk(Image.new(mode, (40, 40), colour), format_=format_)
    assert close(out[32, 32], expected)


def test_transparent_palette_is_laid_on_white():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([*RED, *GREEN])
    assert close(shrunk(image, transparency=0)[32, 32], WHITE)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (40, 40), colour) for colour in (GREEN, RED)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert close(pixels.decode(pixels.shrink(data, 64, square=True))[32, 32], GREEN)


def test_turned_upright():
    image = Image.new("RGB", (80, 40), RED)
    image.paste(BLUE, (40, 0, 80, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left is up
    out = shrunk(image, square=False, format_="JPEG", exif=exif)
    assert out.shape == (64, 32, 3)
    assert close(out[8, 16], RED)
    assert close(out[56, 16], BLUE)


def refusal(data):
    with pytest.raises(InvalidRecordError) as caught:
        pixels.shrink(data, 64, square=True)
    return caught.value.reason


def test_truncated_and_foreign_bytes_are_refused():
    rng = np.random.default_rng(0)
    whole = Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8))
    for format_ in ("JPEG", "PNG", "GIF", "WEBP"):
        data = encoded(whole, format_)
        assert refusal(data[: len(data) // 2]) == "bad_picture"
        assert refusal(data[:20]) == "bad_picture"
    for data in (b"not a picture", b"\xff\xd8\xff", b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0 EPSF"):
        assert refusal(data) == "bad_picture"


def bomb(width, height):
    """A PNG of a few hundred bytes that declares width x height pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("sides", [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_they_go_off(sides):
    assert refusal(bomb(*sides)) == "too_large_picture"


def test_files_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 10)
    assert refusal(encoded(Image.new("RGB", (9, 9)))) == "too_large_picture"


def test_patches_and_boxes_agree():
    S, P = 12, 4
    picture = np.arange(S * S * 3, dtype=np.uint8).reshape(S, S, 3)
    patches, boxes = pixels.patchify(picture, P), pixels.grid_boxes(9)
    assert patches.shape == (9, P * P * 3)
    assert boxes.dtype == np.float32
    for patch, box in zip(patches, boxes, strict=True):
        x1, y1, x2, y2 = np.round(box * S).astype(int)
        np.testing.assert_array_equal(patch.reshape(P, P, 3), picture[y1:y2, x1:x2])


def test_patchify_refuses_what_is_no_grid():
    with pytest.raises(ValueError, match="no grid of 5-pixel patches"):
        pixels.patchify(np.zeros((12, 12, 3), np.uint8), 5)
