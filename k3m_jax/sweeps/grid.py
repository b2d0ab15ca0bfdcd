"""A grid of experiments: which models, on which products, at which tasks, under which corruptions.

A *trial* is one measurement: products, model, seed, task, corruption of the training items,
corruption of the measured items. A *run group* is one pretrained model of one seed with everything
built on it: its fine-tuned runs and their trials.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Self

from k3m_jax.settings import Corruption, Settings
from k3m_jax.settings.schema import Range, UserError, parse

PRETRAINING = "pretraining"  # task of the trial that describes a run group's pretrained model


class Trial(NamedTuple):
    """One measurement; its fields are the key of its result."""

    data: str
    model: str
    seed: int
    task: str
    training: str  # corruption of the fine-tuning items, as `Corruption` writes it; "" is none
    corruption: str  # of the measured items


class RunGroup(NamedTuple):
    """One pretrained model and every run that starts from it."""

    data: str
    model: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.model}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Products:
    """Where the products of one level of `data` come from."""

    folder: str = ""  # with a products.jsonl (docs/data.md); "" is the embedded catalogue, with …
    products: Annotated[int, Range(1)] = 2000  # … this many products …
    overlap: Annotated[float, Range(0, 1)] = 0.5  # … this overlap of modalities …
    seed: Annotated[int, Range(0)] = 0  # … and this seed
    image_size: Annotated[int, Range(1)] = 96
    patch_size: Annotated[int, Range(1)] = 16
    folds: Annotated[int, Range(0)] = 0  # seed n holds out the n-th of so many parts (docs/data.md)


@dataclasses.dataclass(frozen=True)
class TrialBlock:
    """Every combination of these; () means all that the grid names, or no corruption."""

    seeds: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()  # of the measured items, in addition to none
    training: str = ""  # corruption of the fine-tuning items


@dataclasses.dataclass(frozen=True)
class Grid:
    """All trials of a comparison."""

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
          UserError: an unknown key, name or setting.
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

    def trials(self) -> Iterator[Trial]:
        """Each trial once, all of the first seed first, in the order of the blocks."""
        yield from dict.fromkeys(trial for seed in self.seeds for trial in self._with_seed(seed))

    def run_groups(self) -> dict[RunGroup, list[Trial]]:
        """The trials by the pretrained model that they need, in the order of `trials`."""
        groups: dict[RunGroup, list[Trial]] = {}
        for trial in self.trials():
            groups.setdefault(RunGroup(*trial[:3]), []).append(trial)
        return groups

    def fingerprint(self, trial: Trial) -> str:
        """Digest of everything but the code that determines the trial's result.

        Settings that have their default value are left out, so that a new setting does not
        invalidate older results.
        """
        decisive = [self.split, _changes(self.data[trial.data], Products())]
        decisive.append(_changes(self.models[trial.model], Settings()))
        if trial.task != PRETRAINING:
            decisive.append(_changes(self.tasks[trial.task], Settings()))
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _with_seed(self, seed: int) -> Iterator[Trial]:
        for block in self.parts:
            if block.seeds and seed not in block.seeds:
                continue
            for data in block.data or self.data:
                for model in block.models or self.models:
                    yield Trial(data, model, seed, PRETRAINING, "", "")
                    for task in block.tasks or self.tasks:
                        for corruption in ("", *block.corruptions):
                            yield Trial(data, model, seed, task, block.training, corruption)

    def _check(self) -> None:
        for block in self.parts:
            for key in ("data", "models", "tasks"):
                known: Mapping[str, Any] = getattr(self, key)
                for name in getattr(block, key):
                    if name not in known:
                        raise UserError(f"parts: {name!r} is none of {key}: {', '.join(known)}")
            for text in filter(None, (*block.corruptions, block.training)):
                Corruption.parse(text)
        for name, products in self.data.items():
            if products.folds and max(self.seeds) >= products.folds:
                raise UserError(
                    f"data.{name}.folds: {products.folds} are too few, each seed holds out one: "
                    f"seeds are {self.seeds}"
                )
        for name, settings in self.tasks.items():
            if not settings.task.downstream:
                raise UserError(f"tasks.{name}: task.name is pretraining, not a downstream task")
            if name == PRETRAINING:
                raise UserError(f"tasks: {name!r} is the first run of every run group: rename it")
        self._check_folders()

    def _check_folders(self) -> None:
        trainings = dict.fromkeys(["", *(block.training for block in self.parts)])
        tuned = ((task, training) for task in self.tasks for training in trainings)
        for key, names in (
            ("data", ((name,) for name in self.data)),
            ("models", ((name,) for name in self.models)),
            ("tasks", ((PRETRAINING,), *(tuple(filter(None, each)) for each in tuned))),
        ):
            folders: dict[str, tuple[str, ...]] = {}
            for name in names:
                if (first := folders.setdefault(slug(*name), name)) != name:
                    one, other = (" trained with ".join(each) for each in (first, name))
                    raise UserError(
                        f"{key}: {one!r} and {other!r} would share the folder {slug(*name)!r}: "
                        "rename one"
                    )


def slug(*names: str) -> str:
    """Names as one file name or anchor."""
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
