"""What a downstream task is: its examples, its training objective, and how scores are measured.

An *example* is one question about items: one row of a batch or, of a pair, two rows one after the
other. What gives the answer away is named row by row, and `TaskSource` hides it.
"""

import abc
import collections
import copy
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from k3m_jax import modalities
from k3m_jax.data.corruption import EVALUATION_SEED, Corrupter, corrupted, corruption_key
from k3m_jax.data.records import ItemView, Record
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary, normalised
from k3m_jax.metrics import Statistic
from k3m_jax.modalities.base import Array, Row
from k3m_jax.objectives.base import Batch, Hiding, Objective, Sum, weighted_sum
from k3m_jax.settings import Corruption, Settings, Task, UserError
from k3m_jax.tasks import hiding
from k3m_jax.tasks.fitted_baselines import Classify
from k3m_jax.tasks.trivial_baselines import Scores, SeenSplit

if TYPE_CHECKING:
    from k3m_jax.evaluation.embedding import Embedder
    from k3m_jax.training.task_network import Head

LABEL_WEIGHTS = Array((), np.float32, "1 where the row begins an example with a label")
Statistics = dict[str, Statistic]  # metrics by name


class TaskRow(NamedTuple):
    """An item as an example shows it."""

    item: int  # index in its split
    id: str
    product: str
    catalog: str
    shown: tuple[str, ...]  # modalities
    hidden: frozenset[str]  # properties, `normalised`
    query_property: str = ""  # the one of them that is queried; "" is none
    view: str = ""  # path of the picture that shows the item; "" is its own
    # Of the example that begins with the row: a class; 1 where a pair is one product; or one true
    # value of the queried property, an id of the value vocabulary. UNKNOWN (-1) is none.
    label: int = UNKNOWN
    known: tuple[int, ...] = ()  # all true values of the queried property, ascending …
    facts: frozenset[int] = frozenset()  # … and of all properties of the item

    @classmethod
    def of(
        cls, task: Task, item: int, record: Record, hidden: Iterable[str] = (), **fields: Any
    ) -> Self:
        """Of `record`, number `item` of its split; `hidden` in addition to the task's."""
        hidden = frozenset(hidden).union(map(normalised, task.hidden_properties))
        about = record.id, record.product, record.source
        return cls(item, *about, task.shown, hidden, **fields)


Example = tuple[TaskRow, ...]  # the first row is what it is about
Examples = Iterator[Example | str]  # of each item or pair that makes none, the reason


class TaskSource(Sequence):
    """View i is what row i shows, corrupted if wanted; pickles."""

    def __init__(
        self,
        shards: ShardSet,
        split: str,
        rows: Sequence[TaskRow],
        corrupt: Corrupter,
        task: Task,
        key: str = "",
    ):
        """`key` identifies the data set, the split, the task and the corruption."""
        self._key = key
        self._source, self._views = shards.source(split), shards.views
        self._rows, self._corrupt = rows, corrupt
        self._words = hiding.hidden_words(task)
        self._properties = frozenset(map(normalised, task.shown_properties))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ItemView:
        row = self._rows[index]
        view = ItemView.of(self._source[row.item])
        if row.view:  # the classes of its patches are not known, and not needed
            own, jpeg = view.visible["image"], self._views[row.view]
            other = dataclasses.replace(own, jpeg=jpeg, class_ids=None)
            view = dataclasses.replace(view, visible={**view.visible, "image": other})
        view = shown(self._corrupt(view, row.view), row)
        return hiding.hide(view, self._words, self._properties)

    def keys(self) -> list[tuple[Any, ...]]:
        """Of each view, equal for two that are the same, also of other sources."""
        rows = ((r.item, r.shown, r.hidden, r.query_property, r.view) for r in self._rows)
        return [(self._key, *row) for row in rows]

    def subset(self, places: Iterable[int]) -> Self:
        """Some of the views, in this order."""
        other = copy.copy(self)
        other._rows = [self._rows[place] for place in places]
        return other

    def __repr__(self) -> str:  # grain tells sources apart by it
        return f"TaskSource({self._source!r}, {len(self)} rows)"


def shown(view: ItemView, row: TaskRow) -> ItemView:
    """A view without the modalities and the properties that a row hides, with its label."""
    visible = {
        name: content if name in row.shown else modalities.REGISTRY[name].empty
        for name, content in view.visible.items()
    }
    visible["knowledge"] = tuple(
        (name, value) for name, value in visible["knowledge"] if normalised(name) not in row.hidden
    )
    return dataclasses.replace(
        view, visible=visible, query_property=row.query_property, label=row.label
    )


def why_left_out(task: Task, record: Record) -> str:
    """Why an item is of none of the task's catalogs; "" where it is of one."""
    if not task.catalogues or record.source in task.catalogues:
        return ""
    return "of other catalogues" if record.source else "of no catalogue (source)"


class TaskSplit:
    """I > 0 examples of a split of all data sets together, those of the first data set first."""

    def __init__(
        self,
        kind: "type[DownstreamTask]",
        task: Task,
        shard_sets: Sequence[ShardSet],
        split: str,
        vocabulary: ValueVocabulary,
        *,
        labels_per_class: int = 0,
    ):
        """Of `task`, resolved; of each class the examples of `few`, if not 0 of them.

        Raises UserError where no data set has the split, or an example.
        """
        self._task = task
        having = [shards for shards in shard_sets if shards.info.products.get(split)]
        if not having:
            names = sorted({name for shards in shard_sets for name in shards.info.products})
            raise UserError(f"no source has items in a split {split!r}, only in {', '.join(names)}")
        self.split = split
        self.left_out = collections.Counter()  # items or pairs that make no example, by reason
        self._by_shards: list[tuple[ShardSet, list[Example], list[int] | None]] = []
        for shards in having:
            found = list(kind.examples(task, shards, split, vocabulary))
            left_out = collections.Counter(reason for reason in found if isinstance(reason, str))
            examples = [example for example in found if not isinstance(example, str)]
            if not examples:
                pairs = shards.info.pairs if kind.rows_per_example == 2 else {}
                rejected = "rejected when it was built", shards.info.rejects
                counts = ("left out", left_out), ("pairs by split", pairs), rejected
                details = "; ".join(
                    f"{title}: {', '.join(f'{n} {reason}' for reason, n in each.items())}"
                    for title, each in counts
                    if each
                )
                raise UserError(
                    f"{shards}: nothing of the split {split!r} can serve the task {task.name}: it "
                    f"needs {kind.needs}" + (f" ({details})" if details else "")
                )
            items = enumerate(shards.facts(split)) if task.catalogues else ()
            noise_pool = [index for index, item in items if not why_left_out(task, item)] or None
            self._by_shards.append((shards, examples, noise_pool))
            self.left_out += left_out
        if labels_per_class and kind.has_classes:
            chosen = few([e for _, each, _ in self._by_shards for e in each], labels_per_class)
            self._by_shards = [
                (shards, [e for e in each if e[0].id in chosen], pool)
                for shards, each, pool in self._by_shards
            ]
        self.examples = [example for _, each, _ in self._by_shards for example in each]  # [I]
        # UNKNOWN (-1) where training, or `task.classes`, lacks the class: nothing to learn from.
        self.labels = np.array([example[0].label for example in self.examples], np.int64)
        self.labelled = np.flatnonzero(self.labels != UNKNOWN)
        self.products = [example[0].product for example in self.examples]  # [I]

    @functools.cached_property
    def split_products(self) -> frozenset[str]:
        """All products that have an item in the split, also those without an example."""
        sources = (shards.facts(self.split) for shards, *_ in self._by_shards)
        return frozenset(record.product for source in sources for record in source)

    def sources(self, corruption: Corruption, seed: int = EVALUATION_SEED) -> list[TaskSource]:
        """The rows of each data set's examples; noise is taken from the task's catalogs."""
        found = []
        for shards, examples, noise_pool in self._by_shards:
            corrupt = Corrupter(shards.source(self.split), corruption, seed, noise_pool)
            rows = list(itertools.chain.from_iterable(examples))
            task, info = self._task, shards.info
            hidden = sorted(hiding.hidden_words(task)), task.shown_properties
            noise = (str(corruption), seed, task.catalogues) if corruption.rate else ()
            key = repr((str(shards.folder), info.fingerprint, self.split, hidden, noise))
            key = hashlib.blake2b(key.encode()).hexdigest()
            found.append(TaskSource(shards, self.split, rows, corrupt, task, key))
        return found

    def corrupted(self, corruption: Corruption) -> np.ndarray:
        """Which rows are corrupted, bool [rows]."""
        keys = [corruption_key(row.id, row.view) for example in self.examples for row in example]
        return corrupted(keys, corruption, EVALUATION_SEED)


def few(examples: Sequence[Example], count: int) -> frozenset[str]:
    """Ids of `count` examples of each class or all, by a hash: those of 5 are among those of 20."""
    by_class: dict[int, list[tuple[bytes, str]]] = collections.defaultdict(list)
    for first, *_ in examples:
        key = hashlib.blake2b(first.id.encode(), digest_size=8).digest()
        by_class[first.label].append((key, first.id))
    by_class.pop(UNKNOWN, None)
    return frozenset(name for each in by_class.values() for _, name in sorted(each)[:count])


class TaskObjective(Objective):
    """The label of each example, scored by the task's own loss; nothing is hidden."""

    name: ClassVar[str] = "task"
    weight: ClassVar[float] = 1.0
    weight_arrays: ClassVar[tuple[str, ...]] = ("label_weights",)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls()

    @staticmethod
    @abc.abstractmethod
    def losses(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of what the head returns for I examples: loss [I], and whether it is right, bool [I]."""

    @property
    def arrays(self) -> dict[str, Array]:
        label = Array((), np.int32, "a class, or 1 where a pair is one product")
        return {"label": label, "label_weights": LABEL_WEIGHTS}

    def select(
        self, view: ItemView, contents: dict[str, Any], hiding: Hiding
    ) -> tuple[int, dict[str, Any]]:
        return view.label, contents

    def write(self, row: Row, target: int, encoded: Mapping[str, Any]) -> None:
        if target != UNKNOWN:
            row["label"][...], row["label_weights"][...] = target, 1

    def sums(self, outputs: Any, batch: Batch, key: jax.Array | None) -> dict[str, Sum]:
        first = slice(None, None, len(batch["label"]) // len(outputs))  # rows that begin an example
        loss, right = self.losses(outputs, batch["label"][first])
        weights = batch["label_weights"][first]
        accuracy = weighted_sum(right.astype(jnp.float32), weights)
        return {"task": weighted_sum(loss, weights), "task_accuracy": accuracy}


class DownstreamTask(abc.ABC):
    """One task: the class knows its examples, an instance is the *scorer* of a head."""

    name: ClassVar[str]
    rows_per_example: ClassVar[int] = 1
    has_classes: ClassVar[bool] = False  # whether an example's label is a class
    needs: ClassVar[str]  # what a split must have, for error messages
    needs_threshold: ClassVar[bool] = False  # of metrics, chosen on validation examples
    objective: ClassVar[type[Objective]]  # what fine-tuning minimises; has `losses`

    @classmethod
    @abc.abstractmethod
    def examples(
        cls, task: Task, shards: ShardSet, split: str, vocabulary: ValueVocabulary
    ) -> Examples:
        """The examples of a split."""

    @classmethod
    def resolve(cls, task: Task, shard_sets: Sequence[ShardSet], split: str) -> Task:
        """The task with what files and only its training items, of `split`, can say."""
        return dataclasses.replace(task, hidden_words=hiding.words_of(task.hidden_words))

    def __init__(
        self,
        head: "Head",
        embedder: "Embedder | None" = None,
        vocabulary: ValueVocabulary | None = None,
        splits: Sequence[TaskSplit] = (),
        scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ):
        """`splits` are all that will be scored; `scale` gives candidates as the head reads them."""
        self.head = head
        self._apply = jax.jit(head.apply)

    def inputs(self, split: TaskSplit, c: np.ndarray) -> dict[str, np.ndarray]:
        """What the head learns from, of the embeddings of all rows: `c` [I, …, D], `label` [I]."""
        if self.rows_per_example > 1:
            c = c.reshape(-1, self.rows_per_example, c.shape[-1])
        return {"c": c, "label": split.labels}

    def loss(self, params: Any, batch: Mapping[str, Any]) -> Sum:
        """Of the head on some of `inputs`, with a `weight` for each; no label weighs nothing."""
        weights = batch["weight"] * (batch["label"] != UNKNOWN)
        outputs = self.head.apply(params, batch["c"])
        return weighted_sum(self.objective.losses(outputs, batch["label"])[0], weights)

    def scores(self, params: Any, split: TaskSplit, c: np.ndarray) -> np.ndarray:
        """The head's output for the examples, as `statistics` reads it."""
        return np.asarray(self._apply(params, self.inputs(split, c)["c"]))

    @abc.abstractmethod
    def statistics(self, split: TaskSplit, scores: np.ndarray, threshold: float) -> Statistics:
        """The metrics by name."""

    def zero_shot_statistics(self, split: TaskSplit, c: np.ndarray, norm: str) -> Statistics:
        """The metrics of embeddings without a head, by link prediction's energy of that norm.

        Each name ends in the name of the metric of `statistics` that it compares with.
        """
        return {}

    def fit_classifiers(self, train: SeenSplit) -> Classify | None:
        """Classical models that learn from `train`; None where the task has none."""
        return None

    @abc.abstractmethod
    def trivial_baselines(self, train: SeenSplit, measured: SeenSplit) -> Scores:
        """Scores of the trivial baselines for the examples of `measured`."""
