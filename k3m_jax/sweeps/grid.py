"""A grid of experiments: which models, on which products, at which tasks, in which settings.

A *cell* is one measurement: products, model, seed, task, corruption in training, corruption of what
is measured. A *lane* is a pretrained model of one seed with all that is built on it: its fine-tuned
runs and their cells.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Self

from k3m_jax.settings import Corruption, Settings
from k3m_jax.settings.schema import Range, UserError, check_ranges, parse

PRETRAINING = "pretraining"  # the task of the cells that tell of a lane's pretrained model


class Trial(NamedTuple):
    """What is measured; all that a result is found by."""

    data: str
    model: str
    seed: int
    task: str
    training: str  # corruption of the fine-tuning items, as `Corruption` writes it; "" is none
    corruption: str  # of the measured items


class RunGroup(NamedTuple):
    """A pretrained model, and whatever is learned on top of it."""

    data: str
    model: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.model}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Products:
    """Where a level of `data` comes from."""

    folder: str = ""  # with a products.jsonl (docs/data.md); "" is the embedded catalogue, with …
    products: Annotated[int, Range(1)] = 2000  # … so many products …
    overlap: Annotated[float, Range(0, 1)] = 0.5  # … that tell a fact twice with this chance …
    seed: Annotated[int, Range(0)] = 0  # … and this seed
    image_size: Annotated[int, Range(1)] = 96
    patch_size: Annotated[int, Range(1)] = 16
    folds: Annotated[int, Range(0)] = 0  # seed n holds out the n-th of so many parts (docs/data.md)


@dataclasses.dataclass(frozen=True)
class TrialBlock:
    """Every combination of these; () is all that the grid names, or no corruption."""

    seeds: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()  # of what is measured, besides none
    training: str = ""  # corruption of what is learned from, in fine-tuning


@dataclasses.dataclass(frozen=True)
class Grid:
    """All cells."""

    split: str  # to measure on
    seeds: tuple[int, ...]
    data: Mapping[str, Products]
    models: Mapping[str, Settings]  # of pretraining
    tasks: Mapping[str, Settings]  # of fine-tuning
    parts: tuple[TrialBlock, ...]

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Self:
        """Parses what a `configs/grid_….py` returns, as a dictionary.

        Raises:
          UserError: a key, a name or a setting that there is not.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in (*known, *content):
            if (name in known) != (name in content):
                raise UserError(f"a grid has {', '.join(known)}: look at {name!r}")
        grid = cls(
            split=content["split"],
            seeds=parse(tuple[int, ...], content["seeds"], "seeds"),
            data={n: parse(Products, x, f"data.{n}") for n, x in content["data"].items()},
            models={n: Settings.from_config(x) for n, x in content["models"].items()},
            tasks={n: Settings.from_config(x) for n, x in content["tasks"].items()},
            parts=parse(tuple[TrialBlock, ...], content["parts"], "parts"),
        )
        grid._check()
        return grid

    def cells(self) -> Iterator[Trial]:
        """Each once, in the order of the parts within a seed: the first seed is whole first."""
        yield from dict.fromkeys(cell for seed in self.seeds for cell in self._of(seed))

    def lanes(self) -> dict[RunGroup, list[Trial]]:
        """The cells by the pretrained model that they need, in the order of `cells`."""
        lanes: dict[RunGroup, list[Trial]] = {}
        for cell in self.cells():
            lanes.setdefault(RunGroup(*cell[:3]), []).append(cell)
        return lanes

    def fingerprint(self, cell: Trial) -> str:
        """Of all that decides what the cell's measurement is, but the code.

        Of settings what is not their default: a setting that is new changes no older result.
        """
        decisive = [self.split, _changes(self.data[cell.data], Products())]
        decisive.append(_changes(self.models[cell.model], Settings()))
        if cell.task != PRETRAINING:
            decisive.append(_changes(self.tasks[cell.task], Settings()))
        told = json.dumps(decisive, sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    def _of(self, seed: int) -> Iterator[Trial]:
        for part in self.parts:
            if part.seeds and seed not in part.seeds:
                continue
            for data in part.data or self.data:
                for model in part.models or self.models:
                    yield Trial(data, model, seed, PRETRAINING, "", "")
                    for task in part.tasks or self.tasks:
                        for corruption in ("", *part.corruptions):
                            yield Trial(data, model, seed, task, part.training, corruption)

    def _check(self) -> None:
        for part in self.parts:
            for key in ("data", "models", "tasks"):
                known: Mapping[str, Any] = getattr(self, key)
                for name in getattr(part, key):
                    if name not in known:
                        raise UserError(f"parts: {name!r} is none of {key}: {', '.join(known)}")
            for text in filter(None, (*part.corruptions, part.training)):
                Corruption.parse(text)
        for name, products in self.data.items():
            check_ranges(products, f"data.{name}")
            if products.folds and max(self.seeds) >= products.folds:
                raise UserError(
                    f"data.{name}.folds: {products.folds} are too few, each seed holds out one: "
                    f"seeds are {self.seeds}"
                )
        for name, settings in self.tasks.items():
            if not settings.task.downstream:
                raise UserError(f"tasks.{name}: task.name is pretraining, not a downstream task")
        for name in self.tasks:
            if name == PRETRAINING:
                raise UserError(f"tasks: {name!r} is what the lanes begin with: call it otherwise")
        trainings = dict.fromkeys(["", *(part.training for part in self.parts)])
        tuned = ((task, training) for task in self.tasks for training in trainings)
        for key, names in (
            ("data", ((name,) for name in self.data)),
            ("models", ((name,) for name in self.models)),
            ("tasks", ((PRETRAINING,), *(tuple(filter(None, each)) for each in tuned))),
        ):
            folders: dict[str, tuple[str, ...]] = {}
            for name in names:
                if (first := folders.setdefault(slug(*name), name)) != name:
                    one, other = (" learned from ".join(each) for each in (first, name))
                    raise UserError(
                        f"{key}: {one!r} and {other!r} would share the folder {slug(*name)!r}: "
                        "call one otherwise"
                    )


def slug(*names: str) -> str:
    """Names as that of a file or an anchor."""
    return "-".join(re.sub(r"[^\w.]+", "-", name).strip("-") for name in names)


def _changes(group: Any, default: Any) -> dict[str, Any]:
    """What differs from the defaults, nested."""
    found = {}
    for field in dataclasses.fields(group):
        value, usual = getattr(group, field.name), getattr(default, field.name)
        if value != usual:
            nested = dataclasses.is_dataclass(value)
            found[field.name] = _changes(value, usual) if nested else value
    return found
