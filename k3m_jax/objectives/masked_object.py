"""MOM: masked object modelling on the fused regions, in its three variants."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.modalities import pixels
from k3m_jax.modalities.base import Array, Row
from k3m_jax.modalities.picture import Regions, float_features
from k3m_jax.objectives import base
from k3m_jax.objectives.base import Batch, Encoded, Hiding, Reported, Sum, weighted_sum
from k3m_jax.settings import Image, Settings
from k3m_jax.settings import MaskedObject as Options

HIDDEN = 0.9  # share of the targets in training; at evaluation all
# Regions that overlap a hidden one by more than this (intersection over union) are hidden with it,
# as in ViLBERT: it could be read off them.
OVERLAP = 0.4
NCE_NEGATIVES_ELSEWHERE = 178  # 70 % of 255, from other items
NCE_NEGATIVES_WITHIN = 77  # 30 % of 255, from the same item
NCE_CHANCE = 1 / (1 + NCE_NEGATIVES_ELSEWHERE + NCE_NEGATIVES_WITHIN)


@dataclasses.dataclass(frozen=True)
class MaskedObject(base.Objective):
    """Predicts the classes (`kl`) or features (`regression`, `nce`) of hidden regions."""

    name: ClassVar[str] = "mom"
    weight_arrays: ClassVar[tuple[str, ...]] = ("mom_weights",)
    reported: ClassVar[Mapping[str, Reported]] = {
        "mom_top1": Reported("MOM top-1", "regions"),
        "mom_loss": Reported("MOM loss", "regions", is_rate=False),
    }

    options: Options
    image: Image
    group: int  # G: rows among which `nce` finds other items

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.objectives.mom, settings.image, settings.objectives.group)

    @property
    def arrays(self) -> dict[str, Array]:
        """The batch holds the true regions; the model blanks the hidden ones before it looks."""
        N, c = self.image.regions, self.image.top_classes
        return {
            "region_hidden": Array((N,), bool, "regions that the model must not see"),
            "mom_weights": Array((N,), np.float32, "1 where a region is a target"),
            "class_ids": Array((N, c), np.int32, "the most probable classes of each region"),
            "class_probs": Array((N, c), np.float32, "their probabilities, summing to 1"),
        }

    def hide(self, target: Any, encoded: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """A region of unknown class is no target of `kl`."""
        regions: Regions = encoded["image"]
        rate, rng = self.options.rate, hiding.generators["image"]
        targets, hidden = choose_regions(regions.boxes, rate, rng, training=hiding.training)
        if self.options.variant == "kl":
            targets &= regions.class_probs.any(1)
        classes = {"class_ids": regions.class_ids, "class_probs": regions.class_probs}
        return {"region_hidden": hidden, "mom_weights": targets, **classes}, encoded

    def describe(self, row: Row, tokenizer: Any, group: Sequence[str]) -> str:
        targets, hidden = int(row["mom_weights"].sum()), int(row["region_hidden"].sum())
        return f"{targets} targets, {hidden} regions hidden" if targets else "nothing"

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        prediction, weights = outputs.mom_prediction, batch["mom_weights"]
        if self.options.variant == "kl":
            ids, probs = batch["class_ids"], batch["class_probs"]
            loss, top1 = class_divergence(prediction, ids, probs, weights)
            return {"mom": loss, "mom_top1": top1}
        features = float_features(batch["region_inputs"])
        if self.options.variant == "regression":
            return {"mom": weighted_sum(jnp.square(prediction - features).mean(-1), weights)}
        key = jax.random.key(0) if key is None else key
        valid = batch["region_mask"][:, 1:]
        loss, top1 = noise_contrastive(prediction, features, valid, weights, self.group, key)
        return {"mom": loss, "mom_top1": top1}

    def count(self, batch: Batch) -> np.ndarray:
        """How often each class is the likeliest [C]; else the sum of features and 1 [F + 1]."""
        valid = batch["region_mask"][:, 1:]
        if self.options.variant == "kl":
            counts = np.zeros(self.image.classes)
            probs, ids = batch["class_probs"][valid], batch["class_ids"][valid]
            known = probs.any(-1)
            np.add.at(counts, ids[known, probs[known].argmax(-1)], 1)
            return counts
        features = float_features(batch["region_inputs"][valid])
        return np.append(features.sum(0, dtype=np.float64), len(features))

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        """Log frequencies of classes, the mean feature, or for `nce` 0: it prefers no feature."""
        constant = base.log_frequencies(counts)
        if (variant := self.options.variant) != "kl":
            mean = counts[:-1] / jnp.maximum(counts[-1], 1) * (variant == "regression")
            constant = mean.astype(jnp.float32)
        shape = (*batch["mom_weights"].shape, len(constant))
        return {"mom_prediction": jnp.broadcast_to(constant, shape)}

    @property
    def constant_rates(self) -> Mapping[str, float]:
        """In `nce` a tie is no right answer, and the constant prediction ties with everything."""
        return {"mom_top1": NCE_CHANCE} if self.options.variant == "nce" else {}


def choose_regions(
    boxes: np.ndarray, rate: float, rng: np.random.Generator, *, training: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes [n, 4]: which are targets, and which are hidden, both bool [n]."""
    n = len(boxes)
    targets = np.zeros(n, bool)
    targets[rng.permutation(n)[: base.num_targets(n, rate)]] = True
    hidden = targets & (rng.random(n) < HIDDEN) if training else targets.copy()
    if hidden.any():
        hidden |= (pixels.overlaps(boxes, boxes[hidden]) > OVERLAP).any(1)
    return targets, hidden


def class_divergence(
    logits: jax.Array, class_ids: jax.Array, class_probs: jax.Array, weights: jax.Array
) -> tuple[Sum, Sum]:
    """`KL(detector's distribution ‖ prediction)` in nats, and how often the top classes agree.

    Logits are [B, N, C], the distribution's classes and probabilities [B, N, c], weights [B, N].
    """
    log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), class_ids, -1)
    # Where p = 0 its logarithm does not matter, but 0 · -inf would stop a run that looks for NaNs.
    log_p = jnp.log(jnp.where(class_probs > 0, class_probs, 1.0))
    loss = (class_probs * (log_p - log_q)).sum(-1)
    likeliest = jnp.take_along_axis(class_ids, class_probs.argmax(-1, keepdims=True), -1)[..., 0]
    return weighted_sum(loss, weights), weighted_sum(logits.argmax(-1) == likeliest, weights)


def noise_contrastive(
    prediction: jax.Array,
    features: jax.Array,
    valid: jax.Array,
    weights: jax.Array,
    group: int,
    key: jax.Array,
) -> tuple[Sum, Sum]:
    """The true feature against 255 others by dot product: cross-entropy in nats, and top 1.

    Predictions and features are [B, N, F], weights [B, N]. Negatives are drawn, with replacement,
    among the `valid` [B, N] regions of the item's `group` of rows; a region without any costs 0.
    """
    B, N, F = features.shape
    rows = (B // group, group * N)
    # All scores inside a group are one matrix product; the negatives are then picked from it.
    queries, keys = prediction.reshape(*rows, F), features.reshape(*rows, F)
    scores = jnp.einsum("gqf,gkf->gqk", queries, keys).reshape(B, N, group * N)
    row = (jnp.arange(B) % group)[:, None, None]
    region = jnp.arange(N)[None, :, None]
    item_key, region_key, within_key = jax.random.split(key, 3)
    shapes = [(B, N, n) for n in (NCE_NEGATIVES_ELSEWHERE, NCE_NEGATIVES_WITHIN)]
    other = (row + jax.random.randint(item_key, shapes[0], 1, max(group, 2))) % group
    elsewhere = other * N + jax.random.randint(region_key, shapes[0], 0, N)
    within = row * N + (region + jax.random.randint(within_key, shapes[1], 1, max(N, 2))) % N
    true = row * N + region
    # The true one last: of equal scores the first counts as chosen, and a tie is no right answer.
    choices = jnp.concatenate([elsewhere, within, true], -1)
    exists = jnp.repeat(valid.reshape(rows), group, 0).reshape(B, 1, group * N)
    exists = jnp.take_along_axis(jnp.broadcast_to(exists, scores.shape), choices, -1)
    exists &= choices != true  # a group of one item, or an item of one region, has no negative
    exists = exists.at[..., -1].set(True)
    scores = jnp.where(exists, jnp.take_along_axis(scores, choices, -1), jnp.finfo(jnp.float32).min)
    return base.cross_entropy(scores, jnp.full((B, N), choices.shape[-1] - 1), weights)
