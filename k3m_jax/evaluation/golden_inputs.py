"""The files of golden values of the release as settings, batches and optimizer of ours."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from k3m_jax import settings as schema
from k3m_jax.model.pretrained.released_k3m import model_settings
from k3m_jax.settings import Settings, UserError

Arrays = Mapping[str, np.ndarray]


def released_settings(
    config: Mapping[str, Any], inputs: Mapping[str, np.ndarray], mode: str
) -> Settings:
    """The preset at the sizes of a folder, in one mode of fusion; raises UserError."""
    B, T = inputs["input_ids"].shape
    _, X, _ = inputs["index_p"].shape
    _, N, C = inputs["image_target"].shape
    lengths = schema.Lengths(title=T, knowledge=inputs["input_ids_pv"].shape[1], triples=X)
    width = inputs["image_feat"].shape[2]
    model = model_settings(config, mode)
    settings = Settings(
        lengths=dataclasses.replace(lengths, candidate=min(T, lengths.candidate)),
        image=schema.Image(front_end="regions", regions=N, feature_dim=width, classes=C),
        model=model,
        objectives=schema.Objectives(group=B),
        training=schema.Training(batch=B),
        evaluation=schema.Evaluation(batch=B),
    )
    settings.check()
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
    def parse(cls, told: str, where: str) -> Self:
        """From the words of a trajectory file, `where`; raises UserError."""
        number = r"([\d.eE+-]+)"
        pattern = rf"AdamW lr={number} betas=\({number},{number}\) eps={number} weight_decay="
        pattern += number
        found = re.match(pattern, told)
        if not found:
            raise UserError(f"{where} is of an optimizer that is not known here: {told}")
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
