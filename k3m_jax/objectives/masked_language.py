"""MLM: masked language modelling on the fused title."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.modalities.base import Array, EncodedText, Row
from k3m_jax.objectives import base
from k3m_jax.objectives.base import Batch, Encoded, Hiding, Reported, Sum
from k3m_jax.settings import MaskedLanguage as Options
from k3m_jax.settings import Settings

# BERT's shares, in training; the rest are targets that stay visible. At evaluation every target is
# hidden: a prediction that can be read off the input measures nothing.
MASKED, RANDOM = 0.8, 0.1


@dataclasses.dataclass(frozen=True)
class MaskedLanguage(base.Objective):
    """Predicts hidden tokens of a title, and of the triples that follow it (+PKG)."""

    name: ClassVar[str] = "mlm"
    weight_arrays: ClassVar[tuple[str, ...]] = ("mlm_weights",)
    reported: ClassVar[Mapping[str, Reported]] = {
        "mlm_accuracy": Reported("MLM accuracy", "tokens"),
        "mlm_loss": Reported("MLM loss", "tokens", is_rate=False),
    }

    options: Options
    limit: int  # M: targets of a text at most
    vocabulary: int  # V

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        options = settings.objectives.mlm
        limit = max(1, math.ceil(settings.text_length * options.rate))
        return cls(options, limit, settings.model.vocabulary)

    @property
    def arrays(self) -> dict[str, Array]:
        M = self.limit
        return {
            "mlm_positions": Array((M,), np.int32, "where a token is hidden"),
            "mlm_targets": Array((M,), np.int32, "the token that stood there"),
            "mlm_weights": Array((M,), np.float32, "1 where there is a target"),
        }

    def hide(self, target: Any, encoded: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """In training 80 % of the targets become [MASK], 10 % a random token, 10 % stay."""
        text: EncodedText = encoded["title"]
        rng, tokenizer = hiding.generators["title"], hiding.tokenizer
        places = np.flatnonzero(text.content)
        m = min(self.limit, base.num_targets(len(places), self.options.rate))
        positions = places[np.sort(rng.permutation(len(places))[:m])]
        fate = rng.random(m) if hiding.training else np.zeros(m)
        random = tokenizer.ordinary_ids[rng.integers(len(tokenizer.ordinary_ids), size=m)]
        words = text.tokens[positions]
        tokens = text.tokens.copy()
        unmasked = np.where(fate < MASKED + RANDOM, random, words)
        tokens[positions] = np.where(fate < MASKED, tokenizer.mask, unmasked)
        target = {"mlm_positions": positions, "mlm_targets": words, "mlm_weights": np.ones(m)}
        return target, {**encoded, "title": text._replace(tokens=tokens)}

    def describe(self, row: Row, tokenizer: Any, group: Sequence[str]) -> str:
        """[MASK→word] is a hidden token, [other→word] a replaced one, [word] one that stays."""
        words, targets = [], row["mlm_weights"] > 0
        tokens = row["title_tokens"][row["mlm_positions"][targets]]
        for token, target in zip(tokens, row["mlm_targets"][targets], strict=True):
            shown = "MASK" if token == tokenizer.mask else tokenizer.token(token)
            word = tokenizer.token(target)
            words.append(f"[{word}]" if token == target else f"[{shown}→{word}]")
        return " ".join(words) or "nothing"

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        targets, weights = batch["mlm_targets"], batch["mlm_weights"]
        loss, accuracy = base.cross_entropy(outputs.mlm_logits, targets, weights)
        return {"mlm": loss, "mlm_accuracy": accuracy}

    def count(self, batch: Batch) -> np.ndarray:
        """How often each token stands in the titles [V]; all count, as targets are drawn evenly."""
        counts = np.zeros(self.vocabulary)
        targets = batch["mlm_weights"] > 0
        visible = batch["title_content"].copy()
        visible[np.nonzero(targets)[0], batch["mlm_positions"][targets]] = False
        np.add.at(counts, batch["title_tokens"][visible], 1)
        np.add.at(counts, batch["mlm_targets"][targets], 1)
        return counts

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        shape = (*batch["mlm_targets"].shape, self.vocabulary)
        return {"mlm_logits": jnp.broadcast_to(base.log_frequencies(counts), shape)}
