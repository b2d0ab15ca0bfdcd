"""The visual codebook: what class a patch of pixels is of, where no detector says so.

A patch is described by CIELAB means over a 4 x 4 grid and a histogram of gradient directions over
2 x 2 cells: without the second, cloth, print and foliage of one colour fall together. The classes
are fitted to *distinct* descriptors, so that all patches of blank background weigh as one.
"""

import dataclasses

import numpy as np
import threadpoolctl
from etils import epath

GRID = 4  # cells a side of the colour means
ORIENTATIONS = 8  # of gradients, without sign
EDGE_WEIGHT = 2.0  # a fully textured cell counts like a colour difference of about this times 20
FITTED_AT_MOST = 50_000  # descriptors given to k-means


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Classes of patches: centres in the space of `describe`."""

    centres: np.ndarray  # [C, Z] float32
    patch_size: int

    def assign(self, patches: np.ndarray) -> np.ndarray:
        """The nearest class of each patch: uint8 [N, P²·3] to int32 [N]."""
        return self.nearest(describe(patches, self.patch_size))

    def nearest(self, descriptors: np.ndarray) -> np.ndarray:
        """The nearest class of each descriptor: [N, Z] to int32 [N]."""
        # In float32 two classes may be as good as equally far, and the threads of the product
        # choose: then two builds of the same records differ.
        centres = self.centres.astype(np.float64)
        distance = (centres**2).sum(-1) - 2 * descriptors.astype(np.float64) @ centres.T
        return distance.argmin(-1).astype(np.int32)

    def save(self, path: epath.PathLike) -> None:
        """Writes it as .npz."""
        with epath.Path(path).open("wb") as file:
            np.savez(file, centres=self.centres, patch_size=self.patch_size)

    @classmethod
    def load(cls, path: epath.PathLike) -> "Codebook":
        """Reads what `save` wrote."""
        with epath.Path(path).open("rb") as file, np.load(file) as arrays:
            return cls(arrays["centres"], int(arrays["patch_size"]))


def fit(descriptors: np.ndarray, classes: int, patch_size: int, seed: int = 0) -> Codebook:
    """Finds at most `classes` classes among descriptors [n, Z], fewer where fewer are distinct.

    Descriptors that round alike are the same patch but for JPEG noise. Where there are none, as no
    product has a picture, the one class is that of a blank patch.
    """
    from sklearn.cluster import MiniBatchKMeans  # seconds to import, and only builds need it

    if not len(descriptors):
        descriptors = describe(np.full((1, patch_size**2 * 3), 255, np.uint8), patch_size)
    _, first = np.unique(np.round(descriptors), axis=0, return_index=True)
    distinct = descriptors[np.sort(first)]
    rng = np.random.default_rng(seed)
    if len(distinct) > FITTED_AT_MOST:
        distinct = distinct[rng.choice(len(distinct), FITTED_AT_MOST, replace=False)]
    if len(distinct) <= classes:
        return Codebook(distinct.astype(np.float32), patch_size)
    kmeans = MiniBatchKMeans(classes, random_state=seed, n_init=1, batch_size=4096)
    # One thread: the same classes on any machine, and no threads that spin where cores are shared.
    with threadpoolctl.threadpool_limits(1):
        kmeans.fit(distinct)
    return Codebook(kmeans.cluster_centers_.astype(np.float32), patch_size)


def describe(patches: np.ndarray, patch_size: int) -> np.ndarray:
    """Descriptors of patches: uint8 [N, P²·3] to float32 [N, Z]."""
    P, n = patch_size, len(patches)
    rgb = patches.reshape(n, P, P, 3).astype(np.float32)
    # Sums of whole numbers are exact in any order: rows first, which is several times faster.
    rows = rgb.reshape(n, GRID, P // GRID, P * 3).sum(2)
    cells = rows.reshape(n, GRID, GRID, P // GRID, 3).sum(3)
    colour = _lab(cells / np.float32((P // GRID) ** 2))
    dy, dx = np.gradient(rgb @ _LIGHTNESS, axis=(1, 2))
    direction = np.floor(np.arctan2(dy, dx) * (ORIENTATIONS / np.pi)).astype(int) % ORIENTATIONS
    half = np.arange(P) >= P // 2
    cell = np.arange(n)[:, None, None] * 4 + half[:, None] * 2 + half
    bins = (cell * ORIENTATIONS + direction).ravel()
    edges = np.bincount(bins, np.hypot(dx, dy).ravel(), n * 4 * ORIENTATIONS) / (P // 2) ** 2
    # / GRID: the 4 x 4 cells together weigh as much as one colour of the whole patch.
    parts = colour.reshape(n, GRID**2 * 3) / GRID, EDGE_WEIGHT * edges.reshape(n, 4 * ORIENTATIONS)
    return np.concatenate(parts, -1).astype(np.float32)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 [..., 3] to CIELAB (D65): L* 0..100, a* and b* about ±100."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_OVER_WHITE.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


_LIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32) * (100 / 255)  # luma, close to L*
_XYZ_OVER_WHITE = np.float32(
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ]
)
