"""The files of golden values of the release as settings, batches and optimizer of ours."""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from etils import epath

from k3m_jax import settings as schema
from k3m_jax.settings import Settings, UserError

Arrays = Mapping[str, np.ndarray]

# The arrays of inputs.npz; the letters are those of the legend in `data.batch`.
SHAPES = {
    "input_ids": "BT",
    "token_type_ids": "BT",
    "attention_mask": "BT",
    "masked_lm_labels": "BT",
    "image_feat": "BRF",
    "image_loc": "BR5",
    "image_attention_mask": "BR",
    "image_label": "BN",
    "image_target": "BNC",
    "input_ids_pv": "BK",
    "token_type_ids_pv": "BK",
    "attention_mask_pv": "BK",
    "masked_lm_labels_pv": "BK",
    "index_p": "BX2",
    "index_v": "BX2",
    "next_sentence_label": "B",
    "next_sentence_label_pv_v": "B",
    "next_sentence_label_pv_t": "B",
}


def read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """An .npz file; UserError where it is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name a folder of golden values")
    try:
        return dict(np.load(io.BytesIO(path.read_bytes())))
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an .npz of arrays: {error}") from error


def read_trajectory(path: epath.Path) -> tuple["AdamW", np.ndarray]:
    """The optimizer of a trajectory file, and the losses before each of its steps.

    Raises:
      UserError: it does not say both, or the optimizer is not known here.
    """
    try:
        stored = json.loads(path.read_text())
        optimizer, losses = str(stored["optimizer"]), np.array(stored["losses"], np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} lacks `optimizer` or `losses`: {error!r}") from error
    return AdamW.parse(optimizer, str(path)), losses


def sizes_of(inputs: Arrays, path: epath.Path) -> dict[str, int]:
    """The size of each letter of `SHAPES`.

    Raises:
      UserError: an array is lacking, or its shape is not as the others'; `path` is named.
    """
    sizes = {"2": 2, "5": 5}
    for name, letters in SHAPES.items():
        array = f"{name} [{', '.join(letters)}]"
        if name not in inputs:
            raise UserError(f"{path} lacks the array {array}: docs/fidelity.md lists them all")
        if len(inputs[name].shape) != len(letters):
            raise UserError(f"{path}: {array} has the shape {inputs[name].shape}")
        for letter, size in zip(letters, inputs[name].shape, strict=True):
            if letter == "N":  # the regions without the whole picture
                letter, size = "R", size + 1
            if sizes.setdefault(letter, size) != size:
                raise UserError(
                    f"{path}: {array} has the shape {inputs[name].shape}, but the arrays before it "
                    f"have {letter} = {sizes[letter]}"
                )
    if any(inputs[name].any() for name in ("token_type_ids", "token_type_ids_pv")):
        raise UserError(f"{path}: token types other than 0 are not supported")
    return sizes


def released_settings(model: schema.Model, sizes: Mapping[str, int]) -> Settings:
    """The preset's `model` and the sizes of inputs from `sizes_of`; raises UserError."""
    B, T = sizes["B"], sizes["T"]
    lengths = schema.Lengths(title=T, knowledge=sizes["K"], triples=sizes["X"])
    settings = Settings(
        lengths=dataclasses.replace(lengths, candidate=min(T, lengths.candidate)),
        image=schema.Image(
            front_end="regions",
            regions=sizes["R"] - 1,
            feature_dim=sizes["F"],
            classes=sizes["C"],
        ),
        model=model,
        objectives=schema.Objectives(group=B),
        training=schema.Training(batch=B),
        evaluation=schema.Evaluation(batch=B),
    )
    settings.validate()
    return settings


def released_batch(inputs: Arrays) -> dict[str, np.ndarray]:
    """The release's inputs, but for the regions' features, as a batch of `data.batch`."""
    B, T = inputs["input_ids"].shape
    target = inputs["image_target"]
    flags = ("next_sentence_label", "next_sentence_label_pv_v", "next_sentence_label_pv_t")
    batch = {
        "title_tokens": inputs["input_ids"],
        "title_mask": inputs["attention_mask"] != 0,
        "mlm_positions": np.broadcast_to(np.arange(T), (B, T)),
        "mlm_targets": np.maximum(inputs["masked_lm_labels"], 0),
        "mlm_weights": np.float32(inputs["masked_lm_labels"] != -1),
        "region_boxes": inputs["image_loc"],
        "region_mask": inputs["image_attention_mask"] != 0,
        "mom_weights": np.float32(inputs["image_label"] == 1),
        "class_ids": np.broadcast_to(np.arange(target.shape[-1]), target.shape),
        "class_probs": target,
        "knowledge_tokens": inputs["input_ids_pv"],
        "knowledge_mask": inputs["attention_mask_pv"] != 0,
        "property_spans": inputs["index_p"] + [0, 1],  # first and last to [start, end)
        "value_spans": inputs["index_v"] + [0, 1],
        "triple_mask": np.logical_and.accumulate(inputs["index_p"].any(-1), axis=1),
        "value_targets": np.maximum(inputs["masked_lm_labels_pv"], 0),
        "value_weights": np.float32(inputs["masked_lm_labels_pv"] != -1),
        "pair_weights": np.ones(B, np.float32),
        "mismatched": np.any([inputs[name] for name in flags], axis=0),
    }
    return {
        name: x.astype(np.int32) if np.issubdtype(x.dtype, np.integer) else x
        for name, x in batch.items()
    }


class AdamW(NamedTuple):
    """PyTorch's: what has no gradient is left alone, where decay by itself would pull it."""

    rate: float
    b1: float
    b2: float
    eps: float
    decay: float

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """From the words of a trajectory file, `where`; raises UserError."""
        number = r"([\d.eE+-]+)"
        pattern = rf"AdamW lr={number} betas=\({number},{number}\) eps={number} weight_decay="
        pattern += number
        found = re.match(pattern, text)
        if not found:
            raise UserError(f"{where} is of an optimizer that is not known here: {text}")
        return cls(*map(float, found.groups()))

    def step(
        self, count: int, params: Arrays, gradient: Arrays, moments: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The parameters and the moments [2, …] of each after step `count`, from 1."""
        params, moments = dict(params), dict(moments)
        for name, g in gradient.items():
            if not g.any():
                continue
            mean, square = moments.get(name, np.zeros((2, *g.shape)))
            mean = self.b1 * mean + (1 - self.b1) * g
            square = self.b2 * square + (1 - self.b2) * g**2
            direction = mean / (1 - self.b1**count)
            direction /= np.sqrt(square / (1 - self.b2**count)) + self.eps
            moments[name] = np.stack([mean, square])
            kept = (1 - self.rate * self.decay) * params[name]
            params[name] = np.float32(kept - self.rate * direction)
        return params, moments
