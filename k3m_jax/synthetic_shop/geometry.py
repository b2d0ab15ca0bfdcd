"""Polygons, and the parts of a product that they stand for, in pictures of the embedded catalogue.

The frame: a product fills about [-1, 1] both ways, x to the right, y down.
"""

import math

BACKGROUND, BODY, SHADE, ACCENT, DARK, LIGHT, EDGE = range(7)
"""What a pixel belongs to. BODY wears the pattern, SHADE is the main colour in shadow."""

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
    """The part of an ellipse's inside within `width` of its rim."""
    inner = oval(x, y, rx - width, ry - width, end, start)
    return oval(x, y, rx, ry, start, end) + inner


def mirrored(half: list[Point]) -> list[Point]:
    """A polygon whose left half is the mirror image of `half`, told from top to bottom."""
    return half + [(-x, y) for x, y in reversed(half)]
