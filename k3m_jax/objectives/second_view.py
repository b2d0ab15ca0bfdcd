"""The second view: an item seen in part, or with another's parts, keeps its vector (InfoNCE).

Not K3M's: pretraining as published asks nothing of the vector of an item that lacks a modality.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax import modalities
from k3m_jax.modalities.base import Array, EncodedText, Modality, Row
from k3m_jax.modalities.knowledge import Title
from k3m_jax.objectives import base
from k3m_jax.objectives.base import Batch, Reported, Sum, weighted_sum
from k3m_jax.settings import SecondView as Options
from k3m_jax.settings import Settings

NONE = -1  # the row of an absent modality
STREAM = 1  # of chance, apart from other objectives' of the same group
WRONG = ("title", "image")  # what may be another product's; knowledge is what is known for sure


@dataclasses.dataclass(frozen=True)
class SecondView(base.Objective):
    """Tells the second view of each item from those of the batch's other products.

    A view shows a random proper subset of the item's modalities, or all of them with a title, a
    picture or both of another product. Rows of a group give each other what is wrong, so that the
    model encodes nothing twice: a view is which row each modality is taken from. Where triples are
    text behind the title (+PKG), which no mask can part, the text of a view is written again.
    """

    name: ClassVar[str] = "view"
    weight_arrays: ClassVar[tuple[str, ...]] = ("view_weights",)
    reported: ClassVar[Mapping[str, Reported]] = {
        "view_accuracy": Reported("second view found", "items"),
        "view_loss": Reported("second view loss", "items", is_rate=False),
    }

    options: Options
    modalities: tuple[Modality, ...]

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.objectives.view, modalities.active(settings))

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that a view takes one by one."""
        behind = ("knowledge",) if self._joint else ()
        return (*(m.name for m in self.modalities), *behind)

    @property
    def _joint(self) -> Title | None:
        """The title, if it has the triples behind it."""
        titles = (m for m in self.modalities if isinstance(m, Title) and m.knowledge)
        return next(titles, None)

    @property
    def arrays(self) -> dict[str, Array]:
        row = "row of the group that shows the second view's {}; -1 is none"
        taken = {view_array(name): Array((), np.int32, row.format(name)) for name in self.names}
        texts = self._joint.arrays if self._joint else {}
        return (
            taken
            | {f"view_{name}": array for name, array in texts.items()}
            | {
                "view_product": Array((), np.int32, "a hash of the product"),
                "view_weights": Array((), np.float32, "1 where there is a second view"),
            }
        )

    def write_group(self, group: Row, examples: base.Examples, seed: tuple[int, ...]) -> None:
        """Draws the views of all rows; an item of one modality has none."""
        rng = np.random.default_rng((*seed, STREAM))
        shown = [self._present(e) if e else frozenset() for e in examples]
        products = [e and e.view.record.product for e in examples]
        for name in self.names:
            group[view_array(name)][...] = NONE
        for row, example in enumerate(examples):
            if example is None:
                continue
            view = {}
            group["view_product"][row] = product_key(products[row])
            own = sorted(shown[row])
            if len(own) > 1:
                view = self._wrong(row, shown, products, rng) or part_of(own, row, rng)
                group["view_weights"][row] = 1
            for name, source in view.items():
                group[view_array(name)][row] = source
            if self._joint:
                self._write_text(group, row, view, examples)

    def _present(self, example: Any) -> frozenset[str]:
        shown = {m.name for m in self.modalities if m.is_shown(example.encoded[m.name])}
        if self._joint:
            shown.discard("title")
            shown |= {name for name, part in self._parts(example).items() if len(part)}
        return frozenset(shown)

    def _parts(self, example: Any) -> dict[str, np.ndarray]:
        return self._joint.parts(example.view.visible, example.encoded["title"])

    def _write_text(
        self, group: Row, row: int, view: Mapping[str, int], examples: base.Examples
    ) -> None:
        """[CLS] title [SEP] triples [SEP] of the rows that a view takes them from."""
        tokens, content = [], []
        for name in (name for name in ("title", "knowledge") if name in view):
            source = examples[view[name]]
            cls, *_, sep = source.encoded["title"].tokens
            part = self._parts(source)[name]
            tokens = [*(tokens or [cls]), *part, sep]
            content = [*(content or [False]), *[True] * len(part), False]
        # A long title before long triples; the last [SEP] stays.
        length = min(len(tokens), self._joint.length)
        text = EncodedText(np.array(tokens[:length], np.int32), np.array(content[:length], bool))
        arrays = {name: group[f"view_{name}"][row] for name in self._joint.arrays}
        self._joint.write(arrays, text)

    def _wrong(
        self,
        row: int,
        shown: Sequence[frozenset[str]],
        products: Sequence[str | None],
        rng: np.random.Generator,
    ) -> dict[str, int]:
        """All of the item's modalities, some of another product; {} where none has them.

        One at least stays the item's own.
        """
        if rng.random() >= self.options.wrong:
            return {}
        own = shown[row]
        choices = [names for names in ((WRONG[0],), (WRONG[1],), WRONG) if own > {*names}]
        if not choices:
            return {}
        names = choices[rng.integers(len(choices))]
        others = [
            other
            for other, product in enumerate(products)
            if product not in (None, products[row]) and shown[other] >= {*names}
        ]
        if not others:
            return {}
        return dict.fromkeys(own, row) | dict.fromkeys(names, others[rng.integers(len(others))])

    def describe(self, row: Row, tokenizer: Any, group: Sequence[str]) -> str:
        rows = {name: int(row[view_array(name)]) for name in self.names}
        shown = [f"{name} of {group[r]}" for name, r in rows.items() if r != NONE]
        return ", ".join(shown) or "nothing"

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        """Negatives are of the whole batch, on whatever devices; of a micro-batch where it is cut.

        `view_accuracy`: no other product's second view is as near as the item's own.
        """
        product, weights = batch["view_product"], batch["view_weights"]
        embeddings = outputs.product.embedding, outputs.second_embedding
        logits = cosines(*embeddings) / self.options.temperature
        target = view_target(product, weights > 0, self.options.same_product)
        loss = (contrast(logits, target) + contrast(logits.T, target)) / 2
        rivals = (product[:, None] != product) & (weights > 0)
        nearest = jnp.where(rivals, logits, -jnp.inf).max(1)
        found = jnp.diagonal(logits) > nearest
        return {"view": weighted_sum(loss, weights), "view_accuracy": weighted_sum(found, weights)}

    def constant_outputs(self, counts: jax.Array, batch: Batch) -> dict[str, Any]:
        """As little as the constant embedding tells, of every item."""
        return {"second_embedding": jnp.zeros((len(batch["view_weights"]), 1))}


def view_array(modality: str) -> str:
    """The array of a batch that says which row of the group shows a modality in second views."""
    return f"view_{modality}_row"


def product_key(product: str) -> int:
    """A hash of a product's id, an int32."""
    return int.from_bytes(hashlib.blake2b(product.encode(), digest_size=4).digest(), signed=True)


def part_of(own: Sequence[str], row: int, rng: np.random.Generator) -> dict[str, int]:
    """A random proper subset of the modalities, not empty, all of the item's own row."""
    chosen = rng.integers(1, 2 ** len(own) - 1)
    return {name: row for i, name in enumerate(own) if chosen >> i & 1}


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of embeddings [B, D] and [B, D]: [B, B]. Of a vector 0 they are 0, with gradient 0."""
    a, b = (
        x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(1, keepdims=True), 1e-12)) for x in (a, b)
    )
    return a @ b.T


def view_target(product: jax.Array, valid: jax.Array, same_product: float) -> jax.Array:
    """How near the second view of each item [B] is wanted: rows [B, B] that sum to 1, or to 0.

    1 for the item's own view against `same_product` for that of each other item of its product.
    """
    same = (product[:, None] == product) & valid[:, None] & valid
    wanted = jnp.where(jnp.eye(len(product), dtype=bool), 1.0, same_product) * same
    return jnp.where(valid[:, None], wanted / jnp.maximum(wanted.sum(1, keepdims=True), 1), 0.0)


def contrast(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy in nats [B] of logits [B, B] against a target whose columns may be unused."""
    used = target.sum(0) > 0
    logits = jnp.where(used, logits, jnp.finfo(logits.dtype).min)
    # A row without a target must not bring an infinity that its weight 0 can't take back.
    return jnp.where(target > 0, -target * jax.nn.log_softmax(logits), 0.0).sum(1)
