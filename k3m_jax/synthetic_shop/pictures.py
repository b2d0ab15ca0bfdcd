"""Pictures of the embedded catalogue: a silhouette in its colours and pattern, on a background.

A `Look` is what every picture of an item shows; the random generator adds what differs between
photographs: pose, light, crop, background.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from k3m_jax.synthetic_shop.silhouettes import (
    ACCENT,
    BACKGROUND,
    BODY,
    DARK,
    EDGE,
    LIGHT,
    MARKS,
    SHADE,
    SILHOUETTES,
    Part,
    Point,
)

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (24, 24, 27),
    "white": (247, 247, 247),
    "navy": (22, 32, 92),
    "grey": (130, 132, 136),
    "red": (214, 26, 36),
    "blue": (30, 98, 222),
    "beige": (222, 200, 168),
    "green": (36, 150, 60),
    "pink": (248, 158, 192),
    "brown": (126, 80, 46),
    "yellow": (250, 228, 50),
    "charcoal": (72, 74, 80),
    "khaki": (160, 150, 100),
    "purple": (130, 50, 172),
    "orange": (246, 128, 20),
    "burgundy": (112, 14, 40),
    "teal": (8, 116, 122),
    "silver": (190, 194, 200),
    "cream": (252, 242, 206),
    "olive": (104, 108, 36),
    "mint": (164, 230, 194),
    "lavender": (192, 170, 234),
    "mustard": (198, 152, 28),
    "coral": (250, 112, 94),
    "turquoise": (46, 206, 208),
    "tan": (196, 152, 106),
    "lime": (160, 216, 38),
    "skyblue": (140, 200, 246),
    "fuchsia": (222, 38, 140),
    "chocolate": (74, 44, 28),
    "peach": (254, 198, 154),
    "emerald": (10, 178, 122),
    "indigo": (72, 48, 162),
    "rust": (178, 74, 26),
    "plum": (98, 40, 88),
    "steel": (90, 126, 162),
    "pine": (18, 76, 48),
    "orchid": (212, 130, 212),
    "amber": (252, 182, 30),
}
"""sRGB by name, from common to rare."""

SHAPES = {"regular": 1.0, "slim": 0.76, "wide": 1.26}
"""Factor on the width of a product's silhouette."""

PATTERNS = (
    "plain",
    "striped",
    "checked",
    "dotted",
    "gradient",
    "diagonal",
    "zigzag",
    "two-tone",
    "speckled",
    "ringed",
)

_SUPERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Design:
    """What pictures of one product share, but not those of other products with the same facts.

    The pattern's repeats per unit of the product's frame and its phase, and an emblem: a star of
    that many points (none with 0), its size and place in the frame.
    """

    repeats: float
    phase: float
    emblem_points: int
    emblem_size: float
    emblem_at: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Look:
    """What a picture shows of an item.

    `detail` is a value of the silhouette's own visible property, `mark` a key of `MARKS` or "".
    """

    silhouette: str
    detail: str
    mark: str
    color: str
    accent: str
    pattern: str
    shape: str
    design: Design


def draw(look: Look, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one photograph.

    Args:
      look: what to show.
      rng: pose, light, crop and background.
      size: pixels on each side.

    Returns:
      The picture, uint8 [size, size, 3], and the part that each pixel belongs to (BACKGROUND,
      BODY, … of `silhouettes`), uint8 [size, size].
    """
    to_frame = _pose(look, rng)
    parts = _paint_parts(look, to_frame, size * _SUPERSAMPLING)
    product = Image.fromarray(_color(look, parts, to_frame)).reduce(_SUPERSAMPLING)
    ground = Image.fromarray(np.uint8(parts == BACKGROUND) * 255)
    behind = np.asarray(ground.reduce(_SUPERSAMPLING), np.float32)[..., None] / 255

    u, v = _grid(size)
    light = rng.uniform(0.88, 1.04) + rng.uniform(-0.09, 0.09) * u + rng.uniform(-0.09, 0.09) * v
    offset = tuple(int(size * rng.uniform(0.0, 0.035)) for _ in range(2))
    shadow = 1 - rng.uniform(0.08, 0.28) * (1 - np.roll(behind, offset, (0, 1)))
    photo = np.asarray(product, np.float32) * light[..., None]
    photo += behind * shadow * _background(rng, size)
    photo *= rng.uniform(0.97, 1.03, 3).astype(np.float32)  # white balance
    pixels = np.clip(photo, 0, 255).astype(np.uint8)
    return pixels, parts[::_SUPERSAMPLING, ::_SUPERSAMPLING]


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's place in the picture's frame [-1, 1]: x [1, side] and y [side, 1], float32."""
    middles = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    return middles[None, :], middles[:, None]


def _pose(look: Look, rng: np.random.Generator) -> np.ndarray:
    """The affine map [2, 3] from a product's frame to the picture's, both [-1, 1]."""
    angle = math.radians(rng.normal(0, 7))
    scale = rng.uniform(0.6, 0.86) if rng.random() < 0.85 else rng.uniform(0.9, 1.15)  # close-up
    width = SHAPES[look.shape] / max(1.0, SHAPES[look.shape])
    height = 1 / max(1.0, SHAPES[look.shape])
    flip = -1 if rng.random() < 0.3 else 1
    turn = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ) @ np.array([[1, rng.normal(0, 0.05)], [0, 1]])
    linear = turn @ np.diag([flip * width, height]) * scale
    return np.column_stack([linear, rng.uniform(-0.12, 0.12, 2)])


def _paint_parts(look: Look, to_frame: np.ndarray, side: int) -> np.ndarray:
    """The part of each pixel, uint8 [side, side]; polygons have edges, which separate the parts."""
    canvas = Image.new("L", (side, side), BACKGROUND)
    brush = ImageDraw.Draw(canvas)
    outline = SILHOUETTES[look.silhouette](look.detail)
    for part, polygon in [*outline, *MARKS.get(look.mark, [])]:
        corners = _to_pixels(polygon, to_frame, side)
        brush.polygon(corners, fill=part)
        brush.line([*corners, corners[0]], fill=EDGE, width=2)
    parts = np.array(canvas)
    if look.design.emblem_points:  # printed on the body alone
        print_ = Image.new("1", (side, side))
        star = _to_pixels(_emblem(look.design, outline), to_frame, side)
        ImageDraw.Draw(print_).polygon(star, fill=1)
        parts[np.asarray(print_) & (parts == BODY)] = ACCENT
    return parts


def _to_pixels(polygon: list[Point], to_frame: np.ndarray, side: int):
    """A polygon of the product's frame in pixels."""
    points = np.array(polygon) @ to_frame[:, :2].T + to_frame[:, 2]
    return [tuple(p) for p in ((points + 1) * side / 2).tolist()]


def _emblem(design: Design, outline: list[Part]) -> list[Point]:
    """A star in the product's frame, about the middle of the largest part of the body."""
    bodies = [np.array(polygon) for part, polygon in outline if part == BODY]
    largest = max(bodies, key=lambda body: np.ptp(body, axis=0).prod())
    x, y = (largest.min(0) + largest.max(0)) / 2 + design.emblem_at
    star = []
    for i in range(2 * design.emblem_points):
        angle = math.pi * i / design.emblem_points
        radius = design.emblem_size * (0.45 if i % 2 else 1)
        star.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return star


def _color(look: Look, parts: np.ndarray, to_frame: np.ndarray) -> np.ndarray:
    """The unlit product on black, uint8 [side, side, 3]."""
    main, accent = (np.float32(COLORS[name]) for name in (look.color, look.accent))
    palette = np.zeros((7, 3), np.float32)
    palette[BODY] = main
    palette[SHADE] = main * 0.72
    palette[ACCENT] = accent
    palette[DARK] = (52, 50, 54)
    palette[LIGHT] = (232, 232, 228)
    palette[EDGE] = main * 0.5 + 12
    pixels = palette.astype(np.uint8)[parts]
    rows, columns = np.nonzero(parts == BODY)
    x, y = (axis.ravel() for axis in _grid(len(parts)))
    inverse = np.linalg.inv(to_frame[:, :2]).astype(np.float32)
    shift = to_frame[:, 2].astype(np.float32)
    x, y = x[columns] - shift[0], y[rows] - shift[1]
    u, v = (row[0] * x + row[1] * y for row in inverse)
    inks = main + np.linspace(0, 1, 256, dtype=np.float32)[:, None] * (accent - main)
    ink = (_pattern(look, u, v) * 255).astype(np.uint8)
    pixels[rows, columns] = inks.astype(np.uint8)[ink]
    return pixels


def _pattern(look: Look, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the accent colour at places (u, v) of the body, float32 [pixels] in [0, 1].

    The main colour keeps about two thirds of the body.
    """
    n, phase = look.design.repeats, look.design.phase
    a, b = u * n + phase, v * n + phase
    match look.pattern:
        case "plain":
            return np.zeros_like(u)
        case "striped":
            ink = b % 1 < 0.36
        case "checked":
            ink = (a % 1 < 0.5) ^ (b % 1 < 0.5)
            return np.where(ink, np.float32(0.62), (a % 1 < 0.5) * np.float32(0.15))
        case "dotted":
            ink = (a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2 < 0.09
        case "gradient":
            return np.clip(0.3 + 0.6 * v, 0, 0.9)
        case "diagonal":
            ink = (a + b) / 1.4 % 1 < 0.36
        case "zigzag":
            ink = (b + 0.6 * np.abs(a % 1 - 0.5)) % 1 < 0.36
        case "two-tone":
            ink = v > 0.25
        case "speckled":
            ink = np.sin(a * 9.7 + 2 * np.sin(b * 7.1)) * np.sin(b * 11.3 + np.sin(a * 5.3)) > 0.5
        case "ringed":
            ink = np.hypot(u, v) * n % 1 < 0.36
    return ink.astype(np.float32)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A studio, a room, a table; float32 [side, side, 3]."""
    kind = rng.random()
    if kind < 0.3:
        return np.full((side, side, 3), rng.uniform(244, 255), np.float32)
    tint = (rng.uniform(150, 250) + rng.uniform(-28, 28, 3)).astype(np.float32)
    down = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    flat = np.broadcast_to(tint, (side, side, 3)).copy()
    if kind < 0.45:
        return flat
    other = np.clip(tint + rng.uniform(-70, 50), 40, 255).astype(np.float32)
    if kind < 0.65:  # a wall fading away
        return flat * (1 - down) + other * down
    if kind < 0.82:  # a wall and a floor
        flat[int(side * rng.uniform(0.55, 0.8)) :] = other
        return flat
    planks = np.arange(side) // max(1, int(side * rng.uniform(0.1, 0.22)))
    flat *= rng.uniform(0.84, 1.04, side).astype(np.float32)[planks][None, :, None]
    return flat + rng.normal(0, 5, (side, side, 1)).astype(np.float32)
