"""Outlines of the products that the embedded catalogue draws.

The frame: a product fills about [-1, 1] both ways, x to the right, y down. A silhouette is a list
of parts, painted in order, each a polygon in the frame. Its argument is the visible detail of the
family of products (a neckline, a lid, …); the values are those in assortment.py.
"""

import functools
import math
from collections.abc import Callable

BACKGROUND, BODY, SHADE, ACCENT, DARK, LIGHT, EDGE = range(7)
"""Classes of pixels. BODY has the pattern, SHADE is the main colour in shadow."""

Point = tuple[float, float]
Part = tuple[int, list[Point]]


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """An upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360):
    """An ellipse about (x, y), or its sector between two angles in degrees (90 is down)."""
    steps = max(6, round(abs(end - start) / 15))
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def band(x: float, y: float, rx: float, ry: float, width: float, start=0, end=360) -> list[Point]:
    """The ring between an ellipse and one that is smaller by `width`."""
    inner = oval(x, y, rx - width, ry - width, end, start)
    return oval(x, y, rx, ry, start, end) + inner


def mirrored(half: list[Point]) -> list[Point]:
    """A symmetric polygon from its right half, whose points run from top to bottom."""
    return half + [(-x, y) for x, y in reversed(half)]


def _shirt(neckline: str) -> list[Part]:
    half = [(0.3, -0.8), (0.95, -0.48), (0.8, -0.05), (0.52, -0.22), (0.54, 0.9)]
    parts = [(BODY, mirrored(half))]
    if neckline == "round":
        parts += [(ACCENT, oval(0, -0.8, 0.32, 0.3, 0, 180)), (SHADE, oval(0, -0.8, 0.22, 0.2))]
    elif neckline == "v-neck":
        parts += [(ACCENT, [(-0.34, -0.8), (0.34, -0.8), (0, -0.18)])]
        parts += [(SHADE, [(-0.22, -0.82), (0.22, -0.82), (0, -0.38)])]
    elif neckline == "polo":
        parts += [(ACCENT, [(-0.32, -0.86), (0, -0.6), (-0.24, -0.4), (-0.42, -0.72)])]
        parts += [(ACCENT, [(0.32, -0.86), (0, -0.6), (0.24, -0.4), (0.42, -0.72)])]
        parts += [(ACCENT, rectangle(-0.06, -0.6, 0.06, -0.1))]
    else:  # turtle
        parts += [(ACCENT, rectangle(-0.27, -1, 0.27, -0.68))]
    return parts


def _dress(sleeves: str) -> list[Part]:
    parts: list[Part] = []
    if sleeves != "none":
        reach, drop = (0.62, -0.42) if sleeves == "short" else (0.85, 0.25)
        arm = [(0.2, -0.92), (reach, drop), (reach - 0.2, drop + 0.1), (0.18, -0.5)]
        parts += [(BODY, arm), (BODY, [(-x, y) for x, y in arm])]
    half = [(0.3, -0.95), (0.3, -0.55), (0.22, -0.2), (0.72, 0.95)]
    parts += [(BODY, mirrored(half)), (SHADE, oval(0, -0.95, 0.16, 0.2, 0, 180))]
    return [*parts, (ACCENT, mirrored([(0.23, -0.24), (0.25, -0.1)]))]


def _legs(waist: str, length: float) -> list[Part]:
    half = [(0.46, -0.9), (0.6, length), (0.16, length), (0, -0.25)]
    parts: list[Part] = [(BODY, mirrored(half))]
    if waist == "belted":
        parts += [(DARK, mirrored([(0.46, -0.9), (0.48, -0.7)]))]
        parts += [(LIGHT, rectangle(-0.1, -0.92, 0.1, -0.68))]
    elif waist == "elastic":
        parts += [(ACCENT, mirrored([(0.46, -0.92), (0.5, -0.62)]))]
    else:  # drawstring
        parts += [(SHADE, mirrored([(0.46, -0.9), (0.47, -0.78)]))]
        for x in (-0.1, 0.06):
            parts += [(LIGHT, rectangle(x, -0.84, x + 0.06, -0.35))]
    return parts


def _fastening(closure: str, x: float, top: float, bottom: float) -> list[Part]:
    """Laces, straps or a zip on a shoe's front, between two heights."""
    if closure == "zip":
        return [(DARK, rectangle(x - 0.04, top, x + 0.04, bottom))]
    count, part = (4, LIGHT) if closure == "laces" else (2, ACCENT)
    gap = (bottom - top) / count
    return [
        (part, rectangle(x - 0.22, top + i * gap, x + 0.2, top + (i + 0.5) * gap))
        for i in range(count)
    ]


def _sneaker(closure: str) -> list[Part]:
    upper = [(-0.9, -0.45), (-0.3, -0.4), (0.1, -0.12), (0.7, 0.1), (0.95, 0.35), (-0.92, 0.35)]
    parts = [(BODY, upper), (LIGHT, rectangle(-0.97, 0.33, 1, 0.55))]
    return [*parts, (SHADE, oval(-0.62, -0.43, 0.3, 0.09)), *_fastening(closure, -0.1, -0.3, 0.2)]


def _boot(closure: str) -> list[Part]:
    upper = [(-0.6, -0.95), (0.1, -0.95), (0.12, 0.15), (0.75, 0.35), (0.9, 0.75), (-0.62, 0.75)]
    parts = [(BODY, upper), (DARK, rectangle(-0.65, 0.73, 0.94, 0.88))]
    parts += [(DARK, rectangle(-0.65, 0.8, -0.25, 1)), (ACCENT, rectangle(-0.62, -1, 0.12, -0.82))]
    return [*parts, *_fastening(closure, -0.06, -0.6, 0.3)]


def _pockets(count: str, y: float) -> list[Part]:
    """Two small pockets, one large, or none, below y."""
    spans = {"none": [], "single": [(-0.4, 0.4)], "double": [(-0.5, -0.05), (0.05, 0.5)]}[count]
    parts: list[Part] = []
    for left, right in spans:
        parts += [(SHADE, rectangle(left, y, right, y + 0.42))]
        parts += [(ACCENT, rectangle(left, y, right, y + 0.12))]
    return parts


def _handbag(pockets: str) -> list[Part]:
    parts = [(ACCENT, band(0, -0.25, 0.42, 0.68, 0.1, 180, 360))]
    parts += [(BODY, mirrored([(0.66, -0.3), (0.92, 0.75)]))]
    return parts + _pockets(pockets, 0.08)


def _backpack(pockets: str) -> list[Part]:
    parts = [(ACCENT, band(0, -0.82, 0.2, 0.18, 0.07, 180, 360))]
    parts += [(DARK, rectangle(-0.8, -0.2, -0.6, 0.7)), (DARK, rectangle(0.6, -0.2, 0.8, 0.7))]
    half = [*oval(0, -0.35, 0.64, 0.55, 270, 360), (0.68, 0.9)]
    parts += [(BODY, mirrored(half)), (SHADE, band(0, -0.35, 0.5, 0.35, 0.07, 180, 360))]
    return parts + _pockets(pockets, 0.25)


def _rim(rim: str, half: float, y: float) -> list[Part]:
    """The top of a cup of half-width `half`: open, with a coloured band, or with a lid."""
    if rim == "lid":
        knob = rectangle(-0.1, y - 0.26, 0.1, y - 0.1)
        return [(DARK, knob), (DARK, rectangle(-half - 0.05, y - 0.14, half + 0.05, y + 0.06))]
    parts: list[Part] = [(SHADE, oval(0, y, half, 0.1))]
    if rim == "banded":
        parts = [(ACCENT, rectangle(-half, y, half, y + 0.26)), *parts]
    return parts


def _mug(rim: str) -> list[Part]:
    parts = [(BODY, band(0.5, 0.05, 0.46, 0.46, 0.16, -90, 90))]
    parts += [(BODY, mirrored([(0.55, -0.7), (0.55, 0.72), (0.45, 0.8)]))]
    return parts + _rim(rim, 0.55, -0.7)


def _tumbler(rim: str) -> list[Part]:
    return [(BODY, mirrored([(0.48, -0.78), (0.32, 0.95)])), *_rim(rim, 0.48, -0.78)]


def _bottle(lid: str) -> list[Part]:
    half = [(0.16, -0.72), (0.18, -0.5), (0.38, -0.3), (0.4, 0.95)]
    parts: list[Part] = [(BODY, mirrored(half))]
    if lid == "loop":
        parts += [(DARK, band(0, -0.86, 0.24, 0.2, 0.08))]
    elif lid == "sport":
        parts += [(LIGHT, rectangle(-0.07, -1.06, 0.07, -0.88))]
        parts += [(ACCENT, mirrored([(0.1, -0.92), (0.2, -0.68)]))]
        return parts
    return [*parts, (ACCENT, rectangle(-0.22, -0.86, 0.22, -0.66))]


def _crate(closure: str) -> list[Part]:
    side = [(0.45, -0.25), (0.95, -0.5), (0.95, 0.45), (0.45, 0.85)]
    parts = [(BODY, rectangle(-0.9, -0.25, 0.45, 0.85)), (SHADE, side)]
    top = [(-0.9, -0.25), (-0.4, -0.5), (0.95, -0.5), (0.45, -0.25)]
    if closure == "open":
        return [*parts, (DARK, top)]
    if closure == "hinged":
        parts += [(ACCENT, [(-0.4, -0.5), (0.95, -0.5), (0.85, -0.95), (-0.5, -0.95)])]
        return [*parts, (DARK, top)]
    parts += [(ACCENT, rectangle(-0.95, -0.35, 0.48, -0.08))]  # lift-off
    parts += [(ACCENT, [(0.48, -0.35), (1, -0.6), (1, -0.33), (0.48, -0.08)])]
    return [*parts, (ACCENT, [(-0.95, -0.35), (-0.4, -0.6), (1, -0.6), (0.48, -0.35)])]


def _shade(shade: str, y: float, width: float) -> list[Part]:
    """A lamp's shade, centred on height y."""
    if shade == "globe":
        return [(BODY, oval(0, y, width * 0.75, width * 0.75))]
    top = width * (0.35 if shade == "cone" else 0.85)
    return [(BODY, mirrored([(top, y - width * 0.6), (width * 0.95, y + width * 0.6)]))]


def _table_lamp(shade: str) -> list[Part]:
    parts = [(ACCENT, oval(0, 0.45, 0.28, 0.4)), (DARK, rectangle(-0.4, 0.8, 0.4, 0.95))]
    return [*parts, (DARK, rectangle(-0.06, -0.1, 0.06, 0.2)), *_shade(shade, -0.4, 0.75)]


def _floor_lamp(shade: str) -> list[Part]:
    parts = [(ACCENT, rectangle(-0.045, -0.5, 0.045, 0.92))]
    return [*parts, (DARK, oval(0, 0.93, 0.34, 0.09)), *_shade(shade, -0.62, 0.5)]


def _feet(legs: str, y: float, half: float) -> list[Part]:
    """The legs of a seat of half-width `half` whose underside is at y."""
    if legs == "pedestal":
        pole = rectangle(-0.07, y, 0.07, 0.88)
        return [(ACCENT, pole), (ACCENT, rectangle(-half * 0.7, 0.86, half * 0.7, 0.97))]
    out = 0.25 if legs == "splayed" else 0.0
    leg = [(half - 0.14, y), (half, y), (half + out, 0.97), (half + out - 0.12, 0.97)]
    inner = [(x * 0.5, py) for x, py in leg]
    return [
        (part, polygon)
        for part, right in ((SHADE, inner), (ACCENT, leg))
        for polygon in (right, [(-x, py) for x, py in right])
    ]


def _chair(legs: str) -> list[Part]:
    posts = [(ACCENT, rectangle(x - 0.06, -0.9, x + 0.06, 0.1)) for x in (-0.38, 0.38)]
    back = (BODY, mirrored([(0.5, -0.97), (0.5, -0.4)]))
    return [*_feet(legs, 0.3, 0.5), *posts, back, (BODY, mirrored([(0.5, 0.06), (0.66, 0.34)]))]


def _stool(legs: str) -> list[Part]:
    return [*_feet(legs, -0.3, 0.52), (BODY, rectangle(-0.62, -0.55, 0.62, -0.22))]


def _trim(trim: str, half: float, y: float) -> list[Part]:
    """A ribbon around a hat at height y, a badge on it, or nothing."""
    if trim == "ribbon":
        return [(ACCENT, rectangle(-half, y - 0.13, half, y + 0.1))]
    return [(ACCENT, oval(0, y - 0.15, 0.16, 0.16))] if trim == "badge" else []


def _sun_hat(trim: str) -> list[Part]:
    crown = [*oval(0, -0.2, 0.5, 0.5, 180, 360), (0.54, 0.3), (-0.54, 0.3)]
    return [(BODY, oval(0, 0.3, 1, 0.32)), (BODY, crown), *_trim(trim, 0.53, 0.12)]


def _cap(trim: str) -> list[Part]:
    visor = [(0.1, 0.12), (0.62, 0.12), (1.05, 0.32), (1.0, 0.42), (0.1, 0.34)]
    crown = [*oval(-0.15, 0.1, 0.68, 0.68, 180, 360), (0.53, 0.3), (-0.83, 0.3)]
    parts = [(ACCENT, visor), (BODY, crown), (DARK, oval(-0.15, -0.58, 0.07, 0.05))]
    return parts + [(part, [(x - 0.15, y) for x, y in p]) for part, p in _trim(trim, 0.67, 0.1)]


def _phone(camera: str) -> list[Part]:
    count = {"single": 1, "dual": 2, "triple": 3}[camera]
    parts = [(BODY, rectangle(-0.48, -0.95, 0.48, 0.95))]
    parts += [(DARK, rectangle(-0.42, -0.88, -0.1, -0.56 + 0.3 * (count - 1)))]
    return parts + [(LIGHT, oval(-0.26, -0.72 + 0.3 * i, 0.11, 0.11)) for i in range(count)]


def _ball(panels: str) -> list[Part]:
    parts: list[Part] = [(BODY, oval(0, 0, 0.85, 0.85))]
    if panels == "hexagonal":
        spots = [(0, 0)] + [
            (0.6 * math.cos(math.radians(a)), 0.6 * math.sin(math.radians(a)))
            for a in range(30, 390, 60)
        ]
        return parts + [(ACCENT, [*oval(x, y, 0.18, 0.18)][:-1:4]) for x, y in spots]
    if panels == "halved":
        return [*parts, (ACCENT, oval(0, 0, 0.85, 0.85, 0, 180))]
    sectors = [[*oval(0, 0, 0.85, 0.85, a, a + 60), (0, 0)] for a in (0, 120, 240)]
    return parts + [(ACCENT, sector) for sector in sectors]  # segmented


def _watch(dial: str) -> list[Part]:
    parts = [(BODY, mirrored([(0.24, -1), (0.32, -0.3), (0.32, 0.3), (0.24, 1)]))]
    if dial == "square":
        parts += [(DARK, rectangle(-0.5, -0.5, 0.5, 0.5))]
        parts += [(LIGHT, rectangle(-0.38, -0.38, 0.38, 0.38))]
    else:
        corners = slice(None, None, 4 if dial == "hexagonal" else 1)
        parts += [(DARK, oval(0, 0, 0.56, 0.56)[corners]), (LIGHT, oval(0, 0, 0.43, 0.43)[corners])]
    hands = [[(-0.04, 0.06), (0.04, 0.06), (0.02, -0.32)], [(0, -0.04), (0, 0.04), (0.26, 0.04)]]
    return parts + [(ACCENT, hand) for hand in hands]


SILHOUETTES: dict[str, Callable[[str], list[Part]]] = {
    "shirt": _shirt,
    "dress": _dress,
    "trousers": functools.partial(_legs, length=0.95),
    "shorts": functools.partial(_legs, length=0.3),
    "sneaker": _sneaker,
    "boot": _boot,
    "handbag": _handbag,
    "backpack": _backpack,
    "mug": _mug,
    "tumbler": _tumbler,
    "bottle": _bottle,
    "crate": _crate,
    "table lamp": _table_lamp,
    "floor lamp": _floor_lamp,
    "chair": _chair,
    "stool": _stool,
    "sun hat": _sun_hat,
    "cap": _cap,
    "phone": _phone,
    "ball": _ball,
    "watch": _watch,
}

MARKS: dict[str, list[Part]] = {
    "side panels": [(ACCENT, rectangle(s - 0.08, -0.1, s + 0.08, 0.88)) for s in (-0.44, 0.44)],
    "lace hem": [(LIGHT, oval(x / 7, 0.9, 0.075, 0.075)) for x in range(-4, 5, 2)],
    "cup lid": [(LIGHT, rectangle(-0.3, -0.95, 0.3, -0.45))],
    "bow": [
        (ACCENT, rectangle(-0.32, -0.25, -0.14, 0.85)),
        (ACCENT, [(-0.23, -0.3), (-0.6, -0.6), (-0.6, -0.1)]),
        (ACCENT, [(-0.23, -0.3), (0.14, -0.6), (0.14, -0.1)]),
    ],
    "wrist strap": [(DARK, band(0.4, 1, 0.14, 0.3, 0.06))],
    "valve": [(LIGHT, oval(0, 0, 0.2, 0.2)), (DARK, oval(0, 0, 0.08, 0.08))],
    "icons": [
        (DARK, rectangle(x, y, x + 0.16, y + 0.16)) for x in (-0.25, 0.09) for y in (-0.25, 0.09)
    ],
}
"""Marks that distinguish the second of two look-alike categories, in pictures that show it."""
