"""What a model gets that gives the same answer whatever it is shown.

The floor is made an ordinary output: log frequencies of tokens and classes as logits, the mean
feature as a prediction, energies that are all alike. So it goes through the objectives' own code,
on the very positions that the model is asked about. Link prediction's ranking has a floor of its
own, per property (`link_ranking`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.baselines.baseline import BaselineOutputs
from k3m_jax.model.image_encoder import region_features
from k3m_jax.model.k3m import Outputs, Product
from k3m_jax.objectives.masked_object import NCE_NEGATIVES_ELSEWHERE, NCE_NEGATIVES_WITHIN
from k3m_jax.reproductions.release.model import ReleasedOutputs
from k3m_jax.settings import Settings

NCE_CHANCE = 1 / (1 + NCE_NEGATIVES_ELSEWHERE + NCE_NEGATIVES_WITHIN)


class ConstantPrediction(NamedTuple):
    """The answer of the floor."""

    mlm_logits: np.ndarray  # [V] log frequencies of the titles' tokens in training
    # [C] log frequencies of the regions' likeliest classes (`kl`), [F] the regions' mean feature
    # (`regression`), or [F] zeros, which tell no feature from another (`nce`).
    mom_prediction: np.ndarray
    value_logits: np.ndarray  # [V] log frequencies of the values' tokens that are asked for

    def outputs(self, batch: Batch) -> Outputs | ReleasedOutputs | BaselineOutputs:
        """The answer to every question of a batch."""
        B, M = batch["mlm_targets"].shape
        nothing = Product(None, None, jnp.zeros((B, 1)), None)
        mlm = jnp.broadcast_to(self.mlm_logits, (B, M, len(self.mlm_logits)))
        if "mom_weights" not in batch:
            return BaselineOutputs(nothing, mlm, None)
        shape = (*batch["mom_weights"].shape, len(self.mom_prediction))
        mom = jnp.broadcast_to(self.mom_prediction, shape)
        if "value_targets" in batch:
            shape = (*batch["value_targets"].shape, len(self.value_logits))
            values = jnp.broadcast_to(self.value_logits, shape)
            pairs, matches = jnp.zeros((B, 2, 2)), jnp.zeros((B, 2))
            return ReleasedOutputs(None, None, None, nothing, mlm, mom, values, pairs, matches)
        if "link_tokens" not in batch:
            return BaselineOutputs(nothing, mlm, mom)
        J = batch["link_tokens"].shape[1]
        return Outputs(nothing, mlm, mom, jnp.zeros((B, J, 1)), jnp.zeros((B, J, 1)))


def constant_prediction(batches: Iterable[Batch], settings: Settings) -> ConstantPrediction:
    """Counts over some training batches.

    All tokens and regions count, not the asked ones alone: which are asked is drawn evenly, so the
    frequencies are the same, and known from fewer items. One is added to each count: what training
    did not show is unlikely, not impossible.

    Args:
      batches: of the training split.
      settings: resolved.
    """
    variant = settings.objectives.mom.variant
    tokens, values = np.ones((2, settings.model.vocabulary))
    classes = np.ones(settings.image.classes)
    features, regions = np.zeros(settings.image.input_dim), 0
    for batch in batches:
        asked = batch["mlm_weights"] > 0
        shown = batch["title_content"].copy()
        shown[np.nonzero(asked)[0], batch["mlm_positions"][asked]] = False
        np.add.at(tokens, batch["title_tokens"][shown], 1)
        np.add.at(tokens, batch["mlm_targets"][asked], 1)
        if "value_targets" in batch:
            np.add.at(values, batch["value_targets"][batch["value_weights"] > 0], 1)
        if "region_mask" not in batch:
            continue
        valid = batch["region_mask"][:, 1:]
        if variant == "kl":
            probs, ids = batch["class_probs"][valid], batch["class_ids"][valid]
            known = probs.any(-1)
            np.add.at(classes, ids[known, probs[known].argmax(-1)], 1)
        elif variant == "regression":
            seen = jax.device_get(region_features(batch["region_inputs"][valid]))
            features += seen.sum(0, dtype=np.float64)
            regions += len(seen)
    mom_prediction = {
        "kl": np.log(classes / classes.sum()),
        "regression": features / max(regions, 1),
        "nce": features,
    }[variant]
    return ConstantPrediction(
        np.log(tokens / tokens.sum()).astype(np.float32),
        mom_prediction.astype(np.float32),
        np.log(values / values.sum()).astype(np.float32),
    )
