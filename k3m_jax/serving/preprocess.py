"""Products to the arrays that `embed` takes, by numpy, pillow and tokenizers alone.

Each exported folder holds a copy of this file and, as `preprocessing`, of the modalities' files.
"""

import importlib
import json
import pathlib
import types
import warnings

import numpy as np
import tokenizers

from k3m_jax.modalities import pixels
from k3m_jax.modalities.base import InvalidRecordError
from k3m_jax.modalities.picture import Picture


class Preprocessor:
    """Reads the folder's tokenizer and settings; call it with a list of products."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        config = (folder / "config.json").read_text(encoding="utf-8")
        config = json.loads(config, object_hook=lambda group: types.SimpleNamespace(**group))
        self.modalities = []
        for name in config.modalities:  # of classes, such as preprocessing.knowledge.Title
            module, _, modality = name.rpartition(".")
            found = getattr(importlib.import_module(module), modality)
            self.modalities.append(found.from_settings(config.settings))
        self.tokenizer = FolderTokenizer(folder)
        image = config.settings.image
        self.side = round(image.regions**0.5) * image.patch_size

    def __call__(self, products):
        """Products -> arrays of as many rows, by name.

        A product is a dict: `title`, text; `triples`, pairs (property, value); further modalities
        under their keys of a catalog; and `picture`, the bytes of a picture's file, or for a
        detector's regions `boxes` [n, 4] (x1, y1, x2, y2 as shares of width and height) and
        `features` [n, F], the most confident first. Any may be left out, or None.
        """
        arrays = {
            name: np.zeros((len(products), *array.shape), array.dtype)
            for modality in self.modalities
            for name, array in modality.arrays.items()
        }
        for modality in self.modalities:
            modality.blank(arrays)
        for index, product in enumerate(products):
            row = {name: array[index, ...] for name, array in arrays.items()}
            picture = self._picture(product)
            tools = types.SimpleNamespace(picture=lambda path, item, picture=picture: picture)
            line = {**product, "images": ["picture"]}
            contents = {m.name: m.store(m.parse(line, []), "", tools) for m in self.modalities}
            for modality in self.modalities:
                modality.write(row, modality.encode(contents, self.tokenizer, {}))
        return arrays

    def _picture(self, product):
        if (boxes := product.get("boxes")) is not None:
            boxes = np.asarray(boxes, np.float32)
            features = np.asarray(product["features"], np.float16)
            classes = np.zeros((len(boxes), 0))
            return Picture(b"", classes, boxes, features, classes)
        data = product.get("picture")
        try:
            return Picture(pixels.shrink(data, self.side, square=True) if data else b"")
        except InvalidRecordError as error:
            warnings.warn(f"a picture is left out: {error}", stacklevel=3)
            return Picture()


class FolderTokenizer:
    """The tokenizer of an exported folder."""

    def __init__(self, folder):
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True  # a title that says "[SEP]" says it as text
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.cls, self.sep, self._unk = (
            self._tokenizer.token_to_id(names[f"{role}_token"]) for role in ("cls", "sep", "unk")
        )
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        special |= {self._tokenizer.token_to_id(names[f"{r}_token"]) for r in ("pad", "mask")}
        self._never = {*special, self.cls, self.sep} - {self._unk}

    def encode(self, text):
        """Tokens of a text, without special tokens around them."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._unk if i in self._never else i for i in ids]

    def encode_term(self, text):
        """Tokens of a property or a value, at least one."""
        return tuple(self.encode(text)) or (self._unk,)
