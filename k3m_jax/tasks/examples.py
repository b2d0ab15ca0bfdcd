"""The downstream tasks as data: what is asked of the items of a split, and what they may show.

An *example* is what is asked once: the class of an item, whether two items are one product, a
property of an item. It is one row of a batch or, of a pair, two rows side by side. What gives the
answer away is named here, row by row, and `task_source.TaskSource` takes it out.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from k3m_jax.data.catalog.pairs import Pair
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary, normalised
from k3m_jax.settings import Modality, Task, UserError

CATEGORY = "category"  # the label that is no property
ROWS_PER_EXAMPLE = {"classification": 1, "alignment": 2, "questions": 1}  # of an example


class TaskRow(NamedTuple):
    """An item as it is shown."""

    item: int  # index in its split
    shown: tuple[Modality, ...]
    hidden: frozenset[str]  # properties, `normalised`
    asked: str = ""  # the one of them that is asked for
    view: str = ""  # path of the picture that it is shown by; "" is its own
    # Of the example that begins with the row: a class; 1 where a pair is one product; or one true
    # value of the asked property, an id of the table of values. UNKNOWN (-1) is none.
    label: int = UNKNOWN


class TaskDataset(NamedTuple):
    """What a task asks of the items of one split of one data set: I > 0 examples."""

    rows: list[TaskRow]  # I, or 2 I of pairs
    items: list[str]  # [I] ids of what an example is about; of a pair, its first item's
    products: list[str]  # [I] that this item is of
    catalogues: list[str]  # [I] likewise
    known: list[tuple[int, ...]]  # [I] all true values of the asked property, ids; () if none is
    left_out: Mapping[str, int]  # items or pairs that nothing is asked of, by reason
    chosen: Sequence[int] | None = None  # items of the task's catalogues; None are all of the split

    @property
    def labels(self) -> np.ndarray:
        """[I] int64, of each example; UNKNOWN (-1) is a class that training has not."""
        each = len(self.rows) // len(self.products)
        return np.array([row.label for row in self.rows[::each]], np.int64)


def task_dataset(task: Task, shards: ShardSet, split: str, table: ValueVocabulary) -> TaskDataset:
    """What `task` asks of a split of a data set.

    Args:
      task: its classes are given.
      shards: the data set.
      split: one that the data set has.
      table: of the values that are asked for.

    Raises:
      UserError: nothing in the split can be asked.
    """
    found = _EXAMPLES[task.name](task, shards, split, table)
    if task.catalogues:
        items = enumerate(shards.source(split))
        found = found._replace(chosen=[i for i, record in items if _chosen(task, record)])
    if not found.products:
        told = [
            f"{title}: {', '.join(f'{n} {reason}' for reason, n in counts.items())}"
            for title, counts in (
                ("left out", found.left_out),
                ("pairs by split", shards.info.pairs if task.name == "alignment" else {}),
                ("set aside when it was built", shards.info.rejects),
            )
            if counts
        ]
        raise UserError(
            f"{shards}: nothing of the split {split!r} can serve the task {task.name}: it "
            f"needs {_NEEDS[task.name]}" + (f" ({'; '.join(told)})" if told else "")
        )
    return found


def class_names(task: Task, records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes of training items, the most frequent first; UserError where there are none."""
    counts = collections.Counter(
        label for record in records if _chosen(task, record) and (label := label_of(task, record))
    )
    if not counts:
        where = f" of the catalogues {', '.join(task.catalogues)}" if task.catalogues else ""
        raise UserError(f"task.label: no training item{where} has one value of {task.label!r}")
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def with_classes(task: Task, shard_sets: Sequence[ShardSet], split: str) -> Task:
    """The task with the classes of its training items, where nothing names others."""
    if task.name != "classification" or task.classes:
        return task
    sources = [s.source(split) for s in shard_sets if s.info.products.get(split)]
    names = class_names(task, (record for source in sources for record in source))
    return dataclasses.replace(task, classes=names)


def label_of(task: Task, record: Mapping[str, Any]) -> str:
    """The class of an item; "" where it has none, or several values of the property."""
    if task.label == CATEGORY:
        return record["category"]
    pairs = zip(record["properties"], record["values"], strict=True)
    wanted = normalised(task.label)
    values = {normalised(value) for name, value in pairs if normalised(name) == wanted}
    return values.pop() if len(values) == 1 else ""


def _classification(
    task: Task, shards: ShardSet, split: str, table: ValueVocabulary
) -> TaskDataset:
    hidden = _hidden(task) | ({normalised(task.label)} if task.label != CATEGORY else set())
    ids = {name: number for number, name in enumerate(task.classes)}
    found = TaskDataset([], [], [], [], [], collections.Counter())
    for index, record in enumerate(shards.source(split)):
        if not _chosen(task, record):
            found.left_out[_of_others(record)] += 1
        elif not (label := label_of(task, record)):
            found.left_out["without one class"] += 1
        else:
            row = TaskRow(index, task.shown, hidden, label=ids.get(label, UNKNOWN))
            _add(found, record, row)
    return found


def _alignment(task: Task, shards: ShardSet, split: str, table: ValueVocabulary) -> TaskDataset:
    places = {
        record["id"]: (index, {key: record[key] for key in ("id", "product", "source")})
        for index, record in enumerate(shards.source(split))
    }
    hidden = _hidden(task)
    found = TaskDataset([], [], [], [], [], collections.Counter())
    for pair in shards.pairs:
        if pair.split != split:
            continue
        (a, about), (b, beside) = places[pair.a], places[pair.b]
        if others := [each for each in (about, beside) if not _chosen(task, each)]:
            found.left_out[_of_others(others[0])] += 1
            continue
        if _shows_itself(task, pair):
            found.left_out["of one item that would show the same twice"] += 1
            continue
        first = TaskRow(a, task.first_shown, hidden, view=pair.a_image, label=pair.label)
        second = TaskRow(b, task.second_shown, hidden, view=pair.b_image, label=UNKNOWN)
        _add(found, about, first, second)
    return found


def _shows_itself(task: Task, pair: Pair) -> bool:
    """Whether one look at both sides, text or picture, tells that they are one item."""
    if pair.a != pair.b:
        return False
    both = set(task.first_shown) & set(task.second_shown)
    return bool(both & {"title", "knowledge"} or (both and pair.a_image == pair.b_image))


def _questions(task: Task, shards: ShardSet, split: str, table: ValueVocabulary) -> TaskDataset:
    hidden = _hidden(task)
    found = TaskDataset([], [], [], [], [], collections.Counter())
    for index, record in enumerate(shards.source(split)):
        if not _chosen(task, record):
            found.left_out[_of_others(record)] += 1
            continue
        true = _true_values(record, table)
        askable = {}
        for name, known in true.items():
            start, end = table.range(name)
            if len(known) == end - start:
                found.left_out["with nothing beside the true values"] += 1
            else:
                askable[name] = known
        rng = item_generator(record["id"])
        # Drawn for all of an item's properties, so that a limit changes none that it leaves.
        targets = {name: known[rng.integers(len(known))] for name, known in askable.items()}
        order = rng.permutation(len(askable))[: task.questions or None]
        for name in (list(askable)[i] for i in sorted(order)):
            row = TaskRow(index, task.shown, hidden | {name}, asked=name, label=targets[name])
            _add(found, record, row, known=askable[name])
    return found


_EXAMPLES: dict[str, Callable[[Task, ShardSet, str, ValueVocabulary], TaskDataset]] = {
    "classification": _classification,
    "alignment": _alignment,
    "questions": _questions,
}
_NEEDS = {
    "classification": "items with one value of task.label",
    "alignment": "labelled pairs (align_pairs.jsonl, docs/data.md)",
    "questions": "items with triples",
}


def item_generator(item: str) -> np.random.Generator:
    """Chance that is an item's own: the same in every split, order and setting."""
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(f"questions/{item}".encode(), digest_size=16).digest())
    )


def _true_values(record: Mapping[str, Any], table: ValueVocabulary) -> dict[str, tuple[int, ...]]:
    """Property, normalised -> ids of its values, ascending."""
    found = collections.defaultdict(set)
    for name, value in zip(record["properties"], record["values"], strict=True):
        if (number := table.id(name, value)) != UNKNOWN:
            found[normalised(name)].add(number)
    return {name: tuple(sorted(ids)) for name, ids in found.items()}


def _add(
    found: TaskDataset, about: Mapping[str, Any], *rows: TaskRow, known: Sequence[int] = ()
) -> None:
    found.rows.extend(rows)
    found.items.append(about["id"])
    found.products.append(about["product"])
    found.catalogues.append(about["source"])
    found.known.append(tuple(known))


def _hidden(task: Task) -> frozenset[str]:
    return frozenset(map(normalised, task.hidden_properties))


def _of_others(record: Mapping[str, Any]) -> str:
    """Why an item of none of the task's catalogues is left out."""
    return "of other catalogues" if record["source"] else "of no catalogue (source)"


def _chosen(task: Task, record: Mapping[str, Any]) -> bool:
    return not task.catalogues or record["source"] in task.catalogues
