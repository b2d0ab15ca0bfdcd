"""What a model answers about products: a class, the values of a property, whether two are one.

A fine-tuned run's head is exported with its model and answers as `launch.evaluate` measures it: a
product is shown as the task shows it, without the triples of what is queried. Values are ranked by
the head of `questions`, or else, by a model that learned link prediction, by the energy.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from k3m_jax.data.records import ItemView, Record
from k3m_jax.data.store.value_vocabulary import ValueVocabulary, normalised
from k3m_jax.modalities.knowledge import CandidateTexts
from k3m_jax.model.network import Params
from k3m_jax.objectives.link_prediction import energy
from k3m_jax.settings import Task, UserError
from k3m_jax.tasks import hiding
from k3m_jax.tasks.base import TaskRow, shown
from k3m_jax.tasks.classification import hidden_properties
from k3m_jax.training.task_network import Head

if TYPE_CHECKING:
    from k3m_jax.serving.product_model import ProductModel

# Of a model card, by the head's task; config.json has the whole task.
CARDS = {
    "classification": """\
## Its head

Fine-tuned for classification; `config.json` has the classes in order, and what the task shows and
hides. `model.classify([record], k=3)` gives classes with probabilities. Without k3m_jax:
`classify(weights, embeddings)`, float32 [B, classes], where `weights` hold `head.safetensors` under
the prefix `task_head/`, too.
""",
    "alignment": """\
## Its head

Fine-tuned for alignment; `config.json` has what the task shows of either item, and the threshold of
the logits that was best on validation pairs. `model.same_product([(a, b)])` gives probabilities.
Without k3m_jax: `same_product(weights, first, second)`, logits, float32 [B], where `weights` hold
`head.safetensors` under the prefix `task_head/`, too.
""",
    "questions": """\
## Its head

Fine-tuned for questions: `model.complete(record, "colour", k=5)` ranks all values of `values.json`.
Without k3m_jax: `value_scores(weights, embeddings, triples)`, float32 [B, Q], where `weights` hold
`head.safetensors` under the prefix `task_head/`, too, and the product was embedded without its
triples of the property.
""",
}
TEXTS = 256  # candidate values that are encoded and scored at a time
Scored = list[tuple[str, float]]  # names and their scores, the best first


class ExportedHead(NamedTuple):
    """A fine-tuned run's head."""

    task: Task  # its classes are given
    params: Params
    threshold: float | None = None  # of alignment's logits, the best on validation pairs


def as_shown(task: Task, record: Record, hidden: Iterable[str] = (), side: str = "") -> Record:
    """A record with what a task shows of it; `side` is first or second, of a pair's items."""
    row = TaskRow.of(task, 0, record, hidden)
    if side:
        row = row._replace(shown=getattr(task, f"{side}_shown"))
    view = hiding.hide(shown(ItemView.of(record), row), *_hidden_by(task))
    return dataclasses.replace(record, contents=view.visible)


@functools.lru_cache(8)
def _hidden_by(task: Task) -> tuple[frozenset[str], frozenset[str]]:
    """Words that titles do not show, and the only properties shown, if any are named."""
    return hiding.hidden_words(task), frozenset(map(normalised, task.shown_properties))


def class_probabilities(model: "ProductModel", records: Iterable[Record]) -> Iterator[np.ndarray]:
    """Probabilities of the classes, float32 [n, classes], part by part of the records."""
    task = model.require_head("classification").task
    views = (as_shown(task, record, hidden_properties(task)) for record in records)
    for c in model.embed_parts(views):
        yield model.call("classify", c)


def pair_logits(model: "ProductModel", first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logits [N] that two items are one product, of embeddings [N, D] as the task shows them."""
    model.require_head("alignment")
    return model.call("same_product", first, second)


def best(names: Sequence[str], scores: np.ndarray, k: int) -> Scored:
    """The k names of the highest scores [C]; ties are in the order of the names given."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [(names[i], float(scores[i])) for i in order]


class Completion:
    """Ranks all values of properties; each property's are encoded once, at its first query."""

    def __init__(self, model: "ProductModel"):
        """Raises UserError where the model has no values, or nothing to score them by."""
        settings, head = model.network.settings, model.head
        if model.values is None:
            hint = "export it again, with the run's shards (--sources)"
            raise UserError(f"the model was exported without values.json: {hint}")
        self._model, self._values = model, model.values
        self._task = head.task if head and head.task.name == "questions" else Task()
        if self._task.downstream:
            module = Head(head.task, model.width)
            self._prepare = jax.jit(functools.partial(module.apply, method="encode"))
            self._score = jax.jit(functools.partial(module.apply, method="score_all"))
            self._params = (model.head_params,)
        elif model.scores_links:
            norm = settings.objectives.lpm.norm
            self._prepare, self._params = (lambda *encoded: encoded), ()
            self._score = jax.jit(lambda c, p, v: -energy(c[:, None], p, v, norm))
        else:
            reason = "no head of the task questions, and no score of a single triple"
            raise UserError(f"the model can't complete properties: it has {reason}")
        self._encode = jax.jit(model.network.encode_candidates)
        self._encoded: dict[str, tuple[list[str], list[Any]]] = {}

    @functools.cached_property
    def properties(self) -> list[str]:
        """All properties that have values, in their most frequent spelling."""
        return list(dict.fromkeys(name for name, _ in self._values.pairs))

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """The same, `normalised`."""
        return frozenset(map(normalised, self.properties))

    def check(self, properties: Iterable[str]) -> None:
        """Raises UserError for a property without values."""
        if unknown := [name for name in properties if normalised(name) not in self.known]:
            some = ", ".join(self.properties[:8])
            raise UserError(f"no value of {unknown[0]!r} is known; there are {some}, …")

    def view(self, record: Record, name: str = "") -> Record:
        """What the model sees of a record when a property is queried; "" hides no triples."""
        return as_shown(self._task, record, {normalised(name)} if name else ())

    def scores(self, c: np.ndarray, name: str) -> tuple[list[str], np.ndarray]:
        """All C values of a property, and their scores for embeddings [n, D] of views, [n, C].

        Raises UserError for a property without values.
        """
        values, encoded = self._property(name)
        rows, size = len(c), self._model.rows(len(c))
        filled = np.pad(c, [(0, size - rows), (0, 0)])
        found = [np.asarray(self._score(*self._params, filled, *part)) for part in encoded]
        return values, np.concatenate(found, 1)[:rows, : len(values)]

    def __call__(
        self, records: Iterable[Record], properties: Sequence[str], k: int, *, missing: bool = False
    ) -> Iterator[tuple[Record, str, Scored]]:
        """The k best values of each property of each record, or of those that it lacks alone.

        Properties that a record lacks share one view of it; each other needs a view of its own.
        """
        waiting: collections.deque[tuple[Record, list[str]]] = collections.deque()

        def views() -> Iterator[Record]:
            for record in records:
                has = {normalised(name) for name, _ in record.triples}
                lacking = [name for name in properties if normalised(name) not in has]
                own = [] if missing else [name for name in properties if normalised(name) in has]
                for names in ([lacking] if lacking else []) + [[name] for name in own]:
                    waiting.append((record, names))
                    yield self.view(record, "" if names is lacking else names[0])

        for c in self._model.embed_parts(views()):
            asked = [waiting.popleft() for _ in range(len(c))]
            by_property = collections.defaultdict(list)
            for row, (_, names) in enumerate(asked):
                for name in names:
                    by_property[name].append(row)
            found: dict[tuple[int, str], Scored] = {}
            for name, rows in by_property.items():
                values, scores = self.scores(c[rows], name)
                for row, of_row in zip(rows, scores, strict=True):
                    found[row, name] = best(values, of_row, k)
            for row, (record, names) in enumerate(asked):
                yield from ((record, name, found[row, name]) for name in names)

    def _property(self, name: str) -> tuple[list[str], list[Any]]:
        if (key := normalised(name)) not in self._encoded:
            self.check([name])
            pairs, model = self._values.pairs[slice(*self._values.range(name))], self._model
            length = model.network.settings.lengths.candidate
            texts, encoded = CandidateTexts.write(pairs, model.tokenizer, length), []
            for start in range(0, len(pairs), TEXTS):
                arrays = {n: x[start : start + TEXTS] for n, x in vars(texts).items()}
                padding = TEXTS - len(arrays["tokens"])
                arrays = {n: np.pad(x, [(0, padding), (0, 0)]) for n, x in arrays.items()}
                encoded.append(self._prepare(*self._params, *self._encode(model.params, arrays)))
            self._encoded[key] = [value for _, value in pairs], encoded
        return self._encoded[key]


def known_values(values: ValueVocabulary) -> dict[str, dict[str, int]]:
    """values.json: property -> value -> how many training items have it."""
    table: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for (name, value), count in zip(values.pairs, values.counts.tolist(), strict=True):
        table[name][value] = count
    return dict(table)
