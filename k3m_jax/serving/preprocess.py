"""Products to the arrays that `embed` takes, without k3m_jax: a copy lies in every exported folder.

Needs numpy, pillow and tokenizers. It says on one page what the rooms of k3m_jax/data do between a
record and a batch; a test holds the two against each other, array by array.
"""

import io
import json
import pathlib

import numpy as np
import tokenizers
from PIL import Image, ImageOps


class Preprocessor:
    """Reads the folder's tokenizer and settings; call it with a list of products."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
        self.lengths, self.image = settings["lengths"], settings["image"]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # a title that says "[SEP]" says it as text
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.cls, self.sep, self.unk = (
            self.tokenizer.token_to_id(names[f"{role}_token"]) for role in ("cls", "sep", "unk")
        )
        released = settings["model"]["preset"] == "release"
        self.marks = [self.encode(mark) or [self.unk] if released else [] for mark in ":;"]

    def __call__(self, products):
        """Products -> arrays of as many rows, by name.

        A product is a dict: `title`, text; `triples`, pairs (property, value); and `picture`, the
        bytes of a picture's file, or for a detector's regions `boxes` [n, 4] (x1, y1, x2, y2 as
        shares of width and height) and `features` [n, F], the most confident first. Any may be
        left out, or None.
        """
        blank = self.row({})  # tells names and shapes also where there are no products
        rows = [blank, *map(self.row, products)]
        return {name: np.stack([row[name] for row in rows])[1:] for name in blank}

    def row(self, product):
        """The arrays of one product, without the first dimension."""
        T, K = self.lengths["title"], self.lengths["knowledge"]
        X, N = self.lengths["triples"], self.image["regions"]
        row = {
            "title_tokens": np.zeros(T, np.int32),
            "title_mask": np.zeros(T, bool),
            "title_content": np.zeros(T, bool),
            "region_boxes": np.zeros((N + 1, 5), np.float32),
            "region_mask": np.zeros(N + 1, bool),
            "knowledge_tokens": np.zeros(K, np.int32),
            "knowledge_mask": np.zeros(K, bool),
            "property_spans": np.zeros((X, 2), np.int32),
            "value_spans": np.zeros((X, 2), np.int32),
            "triple_mask": np.zeros(X, bool),
        }
        if title := self.encode((product.get("title") or "").strip())[: T - 2]:
            t = len(title) + 2
            row["title_tokens"][:t] = [self.cls, *title, self.sep]
            row["title_mask"][:t] = True
            row["title_content"][1 : t - 1] = True

        tokens, spans = self.knowledge(product.get("triples") or ())
        if x := len(spans):
            row["knowledge_tokens"][: len(tokens)] = tokens
            row["knowledge_mask"][: len(tokens)] = True
            row["property_spans"][:x], row["value_spans"][:x] = np.swapaxes(spans, 0, 1)
            row["triple_mask"][:x] = True

        boxes, inputs = self.regions(product)
        n = len(boxes)
        row["region_inputs"] = np.zeros((N, inputs.shape[1]), inputs.dtype)
        row["region_inputs"][:n] = inputs
        row["region_boxes"][0] = (0, 0, 1, 1, 1)  # the whole picture
        row["region_boxes"][1 : n + 1, :4] = boxes
        row["region_boxes"][1 : n + 1, 4] = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        row["region_mask"][: n + 1] = n > 0
        return row

    def encode(self, text):
        """Tokens of a text, without special tokens around them."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def knowledge(self, triples):
        """[CLS] property value property value … [SEP], and the spans of each pair's two texts.

        A triple that does not fit is left out whole; shorter ones after it may still fit. The
        preset `release` writes property : value ; …
        """
        K, X = self.lengths["knowledge"], self.lengths["triples"]
        colon, semicolon = self.marks
        marks = len(colon) + len(semicolon)
        tokens, spans = [self.cls], []
        cleaned = {(p.strip(), v.strip()): None for p, v in triples}
        for name, value in cleaned:
            room = K - 1 - len(tokens) - marks
            if len(spans) == X or room < 2:
                break
            if not (name and value):
                continue
            p, v = (self.encode(text) or [self.unk] for text in (name, value))
            if room < len(p) + len(v) <= K - 2 - marks:
                continue
            p = p[: max(room - len(v), room // 2)]
            v = v[: room - len(p)]
            start, middle = len(tokens), len(tokens) + len(p + colon)
            spans.append(((start, start + len(p)), (middle, middle + len(v))))
            tokens += p + colon + v + semicolon
        return [*tokens, self.sep], spans

    def regions(self, product):
        """Boxes [n, 4] as shares of the picture, and pixels or features [n, F]; n = 0 if absent."""
        N, P = self.image["regions"], self.image["patch_size"]
        if self.image["front_end"] == "regions":
            F = self.image["feature_dim"]
            found = product if product.get("boxes") is not None else {}
            boxes = np.asarray(found.get("boxes", np.zeros((0, 4))), np.float32)[:N]
            return boxes, np.asarray(found.get("features", np.zeros((0, F))), np.float16)[:N]
        if not product.get("picture"):
            return np.zeros((0, 4), np.float32), np.zeros((0, P * P * 3), np.uint8)
        g = round(N**0.5)
        pixels = self.square(product["picture"], g * P)
        y, x = np.divmod(np.arange(N), g)
        boxes = (np.stack([x, y, x + 1, y + 1], -1) / g).astype(np.float32)
        return boxes, pixels.reshape(g, P, g, P, 3).swapaxes(1, 2).reshape(N, P * P * 3)

    @staticmethod
    def square(data, size):
        """A picture as training saw it: upright, on white, shrunk, squared, and once a JPEG."""
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * size, 2 * size))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        scale = size / max(image.size)
        sides = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(sides, Image.Resampling.LANCZOS, reducing_gap=3)
        stored = io.BytesIO()
        ImageOps.pad(image, (size, size), color="white").save(stored, "JPEG", quality=90)
        return np.asarray(Image.open(stored).convert("RGB"))
