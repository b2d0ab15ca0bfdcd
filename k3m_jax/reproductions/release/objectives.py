"""The objectives that the `release` preset has in the place of link prediction."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax.modalities.base import Array, Row
from k3m_jax.modalities.knowledge import KnowledgeText
from k3m_jax.objectives.base import (
    Batch,
    Encoded,
    Examples,
    Hiding,
    Objective,
    Reported,
    Sum,
    cross_entropy,
    log_frequencies,
    weighted_sum,
)
from k3m_jax.settings import Settings, Weighted


@dataclasses.dataclass(frozen=True)
class MaskedValues(Objective):
    """Predicts the tokens of all values but the first, which are [MASK] in the knowledge text."""

    name: ClassVar[str] = "mvm"
    weight_arrays: ClassVar[tuple[str, ...]] = ("value_weights",)
    reported: ClassVar[Mapping[str, Reported]] = {
        "mvm_accuracy": Reported("MVM accuracy", "tokens"),
        "mvm_loss": Reported("MVM loss", "tokens", is_rate=False),
    }

    options: Weighted  # at weight 0 no value is hidden
    length: int  # K
    vocabulary: int  # V

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        mvm = settings.objectives.mvm
        return cls(mvm, settings.lengths.knowledge, settings.model.vocabulary)

    @property
    def arrays(self) -> dict[str, Array]:
        K = self.length
        return {
            "value_targets": Array((K,), np.int32, "the token that stood there"),
            "value_weights": Array((K,), np.float32, "1 where there is a target"),
        }

    def hide(self, target: Any, encoded: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """All values but the first become [MASK]."""
        text: KnowledgeText = encoded["knowledge"]
        spans = text.value_spans[1:] if self.weight else ()
        hidden = np.zeros(len(text.tokens), bool)
        for span in spans:
            hidden[slice(*span)] = True
        tokens = np.array(text.tokens, np.int32)
        target = {"value_targets": np.where(hidden, tokens, 0), "value_weights": hidden}
        tokens[hidden] = hiding.tokenizer.mask
        return target, {**encoded, "knowledge": text._replace(tokens=tuple(tokens.tolist()))}

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        loss, accuracy = cross_entropy(
            outputs.value_logits, batch["value_targets"], batch["value_weights"]
        )
        return {"mvm": loss, "mvm_accuracy": accuracy}

    def count(self, batch: Batch) -> np.ndarray:
        counts = np.zeros(self.vocabulary)
        np.add.at(counts, batch["value_targets"][batch["value_weights"] > 0], 1)
        return counts

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        shape = (*batch["value_targets"].shape, self.vocabulary)
        return {"value_logits": jnp.broadcast_to(log_frequencies(counts), shape)}


@dataclasses.dataclass(frozen=True)
class ProductPairs(Objective):
    """Tells c* from another product's c with the same triples added to it."""

    name: ClassVar[str] = "structure"
    weight_arrays: ClassVar[tuple[str, ...]] = ("pair_weights",)
    reported: ClassVar[Mapping[str, Reported]] = {
        "structure_accuracy": Reported("structure accuracy", "pairs"),
        "structure_loss": Reported("structure loss", "pairs", is_rate=False),
    }

    options: Weighted

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.objectives.structure)

    @property
    def arrays(self) -> dict[str, Array]:
        return {
            "pair_weights": Array(
                (), np.float32, "1 where triples stand and the next row is a product"
            ),
            "mismatched": Array((), bool, "a stream is another product's; here none ever is"),
        }

    def write(self, row: Row, target: Any, encoded: Encoded) -> None:
        """Pairs need the whole group."""

    def write_group(self, group: Row, examples: Examples, seed: tuple[int, ...]) -> None:
        """Rows with triples whose next row, in the circle of their group, is another product."""
        for row, example in enumerate(examples):
            other = (row + 1) % len(examples)
            usable = example and example.encoded["knowledge"].value_spans and examples[other]
            group["pair_weights"][row] = bool(usable and other != row)

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        """`structure`, `structure_accuracy`, and `match_loss`, which is not in the total."""
        loss, accuracy = true_or_false_product(outputs.pair_logits, batch["pair_weights"])
        matched = match(outputs.match_logits, batch["mismatched"])
        return {"structure": loss, "structure_accuracy": accuracy, "match_loss": matched}

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        """Logits that prefer no class."""
        B = len(batch["pair_weights"])
        return {"pair_logits": jnp.zeros((B, 2, 2)), "match_logits": jnp.zeros((B, 2))}


def true_or_false_product(pair_logits: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
    """Two-way cross-entropy: c* is class 1, another product's c with the same triples class 0.

    Args:
      pair_logits: [B, 2, 2] float32, the true product first.
      weights: [B], 0 where no such pair can be made.

    Returns:
      The loss and the rate of right answers, each the mean of a pair's two.
    """
    labels = jnp.broadcast_to(jnp.array([1, 0]), pair_logits.shape[:2])
    loss = optax.softmax_cross_entropy_with_integer_labels(pair_logits, labels)
    right = (pair_logits.argmax(-1) == labels).astype(jnp.float32)
    return weighted_sum(loss.mean(1), weights), weighted_sum(right.mean(1), weights)


def match(logits: jax.Array, mismatched: jax.Array) -> Sum:
    """Cross-entropy of logits [B, 2]; class 1 where any stream of the item is another product's.

    The authors' code computes it and leaves it out of the total.
    """
    labels = mismatched.astype(jnp.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return weighted_sum(loss, jnp.ones_like(loss))
