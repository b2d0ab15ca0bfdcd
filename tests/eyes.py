"""A frozen model for tests, without torch: mean colours of the cells of a grid."""

import json

import numpy as np

from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.pretrained.vision import extraction
from k3m_jax.settings import Backbone
from tests.products import jpeg

SIZE, GRID, CLASSES = 8, 2, 5


class Eyes:
    """Six numbers and a distribution of each cell."""

    def __init__(self, weights="seven", model="eyes"):
        self.identity, self.seen = Backbone(model, weights, SIZE, GRID), []

    def __call__(self, pictures):
        self.seen.append(len(pictures))
        return [self.regions(picture) for picture in pictures]

    def regions(self, picture):
        half = SIZE // GRID
        cells = picture.reshape(GRID, half, GRID, half, 3).swapaxes(1, 2).reshape(4, -1, 3) / 255
        features = np.concatenate([cells.mean(1), cells.std(1)], -1).astype(np.float16)
        probs = np.exp(features[:, :CLASSES].astype(np.float32))
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32) * half
        return {
            "image_w": np.float32(SIZE),
            "image_h": np.float32(SIZE),
            "boxes": np.concatenate([corners, corners + half], 1),
            "features": features,
            "cls_prob": (probs / probs.sum(1, keepdims=True)).astype(np.float16),
        }


def write_dump(folder, lines=12):
    """A dump: of each five products one without a picture, one whose file is broken."""
    folder.mkdir(exist_ok=True)
    with (folder / "products.jsonl").open("w") as file:
        for n in range(lines):
            images = [] if n % 5 == 3 else [f"{n}.jpg"]
            (folder / f"{n}.jpg").write_bytes(b"broken" if n % 5 == 4 else jpeg(n, 20))
            product = {"id": f"shop/{n}", "title": f"thing {n}", "images": images}
            file.write(json.dumps(product | {"triples": [["colour", "red"]]}) + "\n")
    return folder


def extract(eyes, dump, output, batch=4, workers=0):
    """What the command does once its model is opened."""
    catalog = open_catalog("jsonl", dump)
    return extraction.extract(eyes, catalog, output, batch, workers)
