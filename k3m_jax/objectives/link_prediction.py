"""LPM: link prediction of a hidden triple, `E(c, p, v) = ‖c* + p − v‖` (TransE's energy)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import UNKNOWN, Query, normalised
from k3m_jax.modalities.base import Array, Row
from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.objectives import base
from k3m_jax.objectives.base import Batch, Encoded, Hiding, Reported, Sum, weighted_sum
from k3m_jax.settings import LinkPrediction as Options
from k3m_jax.settings import Settings


class LinkTarget(NamedTuple):
    """What LPM knows of an item."""

    query: Query | None  # None where the item has no triple that can be queried
    candidates: CandidateTexts | None  # the queried triple, then false ones: up to J
    facts: frozenset[int]  # the item's pairs in the vocabulary, those not visible included


@dataclasses.dataclass(frozen=True)
class LinkPrediction(base.Objective):
    """Predicts a triple that is hidden in the knowledge text and in the aggregation."""

    name: ClassVar[str] = "lpm"
    weight_arrays: ClassVar[tuple[str, ...]] = ("link_value_weights", "link_item_weights")
    # Accuracy against a handful of false triples says less than the ranking among all values.
    reported: ClassVar[Mapping[str, Reported]] = {
        "link_hits_at_1": Reported("link Hits@1", "links"),
        "link_hits_at_10": Reported("link Hits@10", "links"),
        "link_mrr": Reported("link MRR", "links"),
        "lpm_loss": Reported("LPM loss", "pairs", is_rate=False),
    }

    options: Options
    length: int  # L: tokens of a candidate
    group: int  # G: rows among which an item finds others

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        options, group = settings.objectives.lpm, settings.objectives.group
        return cls(options, settings.lengths.candidate, group)

    @property
    def arrays(self) -> dict[str, Array]:
        J, L, O = 1 + self.options.negative_values, self.length, self.options.negative_items
        return {
            "link_tokens": Array((J, L), np.int32, "[CLS] property value [SEP], then 0"),
            "link_mask": Array((J, L), bool, "valid tokens"),
            "link_property_spans": Array((J, 2), np.int32, "[start, end) of the property"),
            "link_value_spans": Array((J, 2), np.int32, "[start, end) of the value"),
            "link_value_weights": Array((J - 1,), np.float32, "1 where a false value is usable"),
            "link_items": Array((O,), np.int32, "rows of the group, products without the value"),
            "link_item_weights": Array((O,), np.float32, "1 where such a row is usable"),
        }

    def select(self, view: ItemView, contents: Encoded, hiding: Hiding) -> tuple[Any, Encoded]:
        """Queries a triple, of the property that a task queries or of any, and removes it.

        With it goes each copy, in any spelling, and whatever has the same tokens.
        """
        vocabulary, rng = hiding.vocabulary, hiding.generators["knowledge"]
        triples, false = view.record.triples, self.options.negative_values
        ids = [vocabulary.id(*triple) for triple in triples]
        facts, own = frozenset(ids) - {UNKNOWN}, false
        if (queried := view.query_property) is not None:
            named = zip(triples, ids, strict=True)
            ids = [index for (name, _), index in named if normalised(name) == queried]
            # Among a hundred candidates are values of other properties, too (docs/tasks.md).
            own = -(-false // 2)
        if (query := vocabulary.sample_query(ids, own, rng)) is None:
            return LinkTarget(None, None, facts), contents
        lacking = 0 if queried is None else false - len(query.false)
        others = vocabulary.sample_other_property_values(query.target, lacking, rng)
        terms, pairs = hiding.tokenizer.encode_term, vocabulary.pairs
        answer = [*map(terms, pairs[query.target])]
        left = [t for t in contents["knowledge"] if vocabulary.id(*t) != query.target]
        left = tuple(t for t in left if [*map(terms, t)] != answer)
        # The true ones, the queried first; then false ones that do not read like them once cut.
        true = sorted(query.known, key=lambda index: index != query.target)
        written = [*(pairs[index] for index in (*true, *query.false)), *others]
        texts = CandidateTexts.write(written, hiding.tokenizer, self.length)
        read = [texts.identity(row) for row in range(len(texts))]
        usable = [row for row in range(len(true), len(read)) if read[row] not in read[: len(true)]]
        return LinkTarget(query, texts.take([0, *usable]), facts), {**contents, "knowledge": left}

    def write(self, row: Row, target: LinkTarget, encoded: Encoded) -> None:
        if (texts := target.candidates) is not None:
            for name, array in vars(texts).items():
                row[f"link_{name}"][: len(texts)] = array
            row["link_value_weights"][: len(texts) - 1] = 1

    def write_group(self, group: Row, examples: base.Examples, seed: tuple[int, ...]) -> None:
        """Of each row, rows of other products that lack the queried value, shown or not."""
        orders = np.random.default_rng(seed).random((len(examples), len(examples))).argsort(1)
        targets = [example and example.targets[self.name] for example in examples]
        products = [example and example.view.record.product for example in examples]
        for row, (target, order) in enumerate(zip(targets, orders.tolist(), strict=True)):
            if target and target.query:
                usable = (other for other in order if products[other] not in (None, products[row]))
                found = [o for o in usable if target.query.target not in targets[o].facts]
                found = found[: self.options.negative_items]
                group["link_items"][row, : len(found)] = found
                group["link_item_weights"][row, : len(found)] = 1

    def evaluation_arrays(self, examples: base.Examples) -> dict[str, np.ndarray]:
        """Ids for the ranking: `link_target` [B], `link_known` [B, …]; UNKNOWN pads."""
        queries = [example and example.targets[self.name].query for example in examples]
        target = [query.target if query else UNKNOWN for query in queries]
        known = [query.known if query else () for query in queries]
        width = max(map(len, known))
        padded = [[*ids, *[UNKNOWN] * (width - len(ids))] for ids in known]
        return {"link_target": np.array(target, np.int32), "link_known": np.array(padded, np.int32)}

    def describe(self, row: Row, tokenizer: Any, group: Sequence[str]) -> str:
        tokens, usable = row["link_tokens"], row["link_value_weights"] > 0
        if not row["link_mask"].any():
            return "nothing"
        name = tokenizer.decode(tokens[0, slice(*row["link_property_spans"][0])])
        spans = row["link_value_spans"]
        value, *false = (tokenizer.decode(t[slice(*s)]) for t, s in zip(tokens, spans, strict=True))
        values = ", ".join(false[: usable.sum()]) or "no value"
        usable = row["link_items"][row["link_item_weights"] > 0]
        items = ", ".join(group[item] for item in usable) or "no item"
        return f"{name}‹{value}› against {values}; {items}"

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        """`max(0, E(true) − E(false) + γ)` over pairs of triples, and how many are in order.

        A false triple has another value, or is the true one of another product.
        """
        c, norm = outputs.product.embedding, self.options.norm  # [B, D]
        p, v = outputs.link_properties, outputs.link_values  # [B, J, D], the true triple first
        candidates = energy(c[:, None], p, v, norm)
        groups, items = c.reshape(-1, self.group, c.shape[-1]), batch["link_items"]  # [B, O]
        rows = jnp.take_along_axis(groups, items.reshape(len(groups), -1, 1), 1)
        others = energy(rows.reshape(*items.shape, -1), p[:, :1], v[:, :1], norm)
        true, false = candidates[:, :1], jnp.concatenate([candidates[:, 1:], others], 1)
        weights = jnp.concatenate([batch["link_value_weights"], batch["link_item_weights"]], 1)
        loss = weighted_sum(jax.nn.relu(true - false + self.options.margin), weights)
        return {"lpm": loss, "lpm_accuracy": weighted_sum(true < false, weights)}

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        nothing = jnp.zeros((*batch["link_tokens"].shape[:2], 1))
        return {"link_properties": nothing, "link_values": nothing}


def energy(c: jax.Array, p: jax.Array, v: jax.Array, norm: str) -> jax.Array:
    """`‖c + p − v‖` over the last dimension; the 2-norm's gradient at 0 is 0, not NaN."""
    difference = c + p - v
    if norm == "l1":
        return jnp.abs(difference).sum(-1)
    square = jnp.square(difference).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
