"""What a pretraining objective is: what it hides, what it predicts, and how that is scored.

Averages are global: every loss is a (weighted sum, weight) pair, divided once by its caller.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.base import Array, Generators, Row, TextTokenizer
from k3m_jax.settings import Settings

Batch = Mapping[str, Any]  # arrays by name, see `data.input.batch`
Encoded = Mapping[str, Any]  # of an item, by modality: its contents, or what is encoded of them
Examples = Sequence[Any]  # of rows: `data.input.batch.PretrainingExample`, or None for padding


class Sum(NamedTuple):
    """A weighted sum and the weight that it is to be divided by, both float32 scalars."""

    total: jax.Array
    weight: jax.Array


def weighted_sum(values: jax.Array, weights: jax.Array) -> Sum:
    """Sum of values under weights of the same shape; a value of weight 0 may be anything."""
    return Sum(jnp.where(weights > 0, values * weights, 0.0).sum(), weights.sum())


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[Sum, Sum]:
    """Of logits [..., C], targets and weights [...]: cross-entropy in nats, how many are right."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return weighted_sum(loss, weights), weighted_sum(logits.argmax(-1) == targets, weights)


def safe_ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`, and 0 with gradient 0 where nothing has weight."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)


class Reported(NamedTuple):
    """How a metric of held-out items is reported."""

    label: str
    unit: str  # of its targets, in the plural
    is_rate: bool = True  # a share between 0 and 1; False is a loss


class Hiding(NamedTuple):
    """What objectives hide targets with."""

    tokenizer: TextTokenizer
    vocabulary: ValueVocabulary
    generators: Generators  # by modality, an objective draws from that of its own
    training: bool  # False hides every target and keeps none visible


class Objective(abc.ABC):
    """One objective; see `masked_language` for a short one.

    A *target* is what is hidden of one item: arrays by name, not padded, or what the objective's
    own `write` takes. A worker calls `select`, the modalities' `encode`, `hide`, `write`.
    """

    name: ClassVar[str]
    options: Any  # its group of `settings.Objectives`, where it has one
    weight_arrays: ClassVar[tuple[str, ...]]  # arrays of a batch: 1 where there is a target
    # Metrics of evaluation: names of `sums`, and `NAME_loss` for the loss.
    reported: ClassVar[Mapping[str, Reported]] = {}

    @property
    def weight(self) -> float:
        """Of its loss in the total."""
        return self.options.weight

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The objective of a run."""

    @property
    @abc.abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The arrays of a batch that hold targets, by name."""

    def select(self, view: ItemView, contents: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """Draws a target among an item's contents and takes it out of them."""
        return None, contents

    def hide(self, target: Any, encoded: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """Draws or completes a target and hides it in what the modalities encoded."""
        return target, encoded

    def write(self, row: Row, target: Any, encoded: Encoded) -> None:
        """Puts a target into zeroed arrays of one row."""
        for name, array in (target or {}).items():
            row[name][tuple(map(slice, array.shape))] = array

    def write_group(self, group: Row, examples: Examples, seed: tuple[int, ...]) -> None:
        """Puts what depends on other rows of a group into its arrays [G, …]."""
        return

    def evaluation_arrays(self, examples: Examples) -> dict[str, np.ndarray]:
        """What held-out batches hold in addition, for the host alone."""
        return {}

    def describe(self, row: Row, tokenizer: Any, group: Sequence[str]) -> str:
        """The targets of one row of a batch in words; `group` names the rows of its group."""
        return f"{sum(int((row[name] > 0).sum()) for name in self.weight_arrays)} targets"

    @abc.abstractmethod
    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        """The loss under the objective's name, and rates of right predictions under theirs.

        `key` is for what is drawn; None draws the same every time.
        """

    def count(self, batch: Batch) -> np.ndarray:
        """Statistics of one training batch for the constant baseline; they add up."""
        return np.zeros(0)

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        """Constant-prediction baseline: outputs by field, the same for every item."""
        return {}

    @property
    def constant_rates(self) -> Mapping[str, float]:
        """Rates of the baseline that `sums` of its outputs would get wrong, by name."""
        return {}


def target_weights(objectives: Sequence[Objective], batch: Batch) -> dict[str, jax.Array]:
    """What each objective's sum is divided by, known before the model is run."""
    return {o.name: sum(batch[name].sum() for name in o.weight_arrays) for o in objectives}


def sums(
    objectives: Sequence[Objective], outputs: Any, batch: Batch, key: jax.Array | None
) -> dict[str, Sum]:
    """The sums of all objectives, see `Objective.sums`."""
    return {name: s for o in objectives for name, s in o.sums(outputs, batch, key).items()}


def total(
    objectives: Sequence[Objective], results: Mapping[str, Sum], whole: Mapping[str, jax.Array]
) -> jax.Array:
    """The weighted sum of the objectives' means; one without a target adds 0.

    `results` may be `sums` of one micro-batch; `whole` are `target_weights` of the whole batch.
    """
    return sum(o.weight * safe_ratio(results[o.name].total, whole[o.name]) for o in objectives)


def num_targets(count: int, rate: float) -> int:
    """How many of `count` tokens or regions are targets: at least one, unless `rate` is 0."""
    return min(count, max(1, round(rate * count))) if rate > 0 else 0


def log_frequencies(counts: jax.Array) -> jax.Array:
    """Log shares of counts, each plus one: what was never seen is unlikely, not impossible."""
    counts = counts + 1.0
    return jnp.log(counts / counts.sum()).astype(jnp.float32)
