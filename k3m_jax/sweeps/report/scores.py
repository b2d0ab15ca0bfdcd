"""The results of a grid as scores: one number per metric and condition, over seeds."""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from k3m_jax.settings import UserError
from k3m_jax.sweeps.report import naming
from k3m_jax.sweeps.results import read_lines


class Condition(NamedTuple):
    """A trial without its seed."""

    data: str
    task: str
    model: str
    training: str  # corruption of the fine-tuning items, as `settings.Corruption` writes it
    corruption: str  # of the measured items; "" is none


@dataclasses.dataclass(frozen=True)
class Score:
    """A number, over seeds if there are any: a published number has none."""

    mean: float
    spread: float | None = None  # sample standard deviation over seeds; None for fewer than two
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    interval: tuple[float, float] | None = None  # 95 %, over products; only for a single seed

    @classmethod
    def over(cls, seeds: Mapping[int, float], interval: Sequence[float] | None = None) -> Self:
        """From the numbers by seed, at least one."""
        numbers = list(seeds.values())
        if len(numbers) > 1:
            return cls(statistics.fmean(numbers), statistics.stdev(numbers), seeds)
        return cls(numbers[0], None, seeds, tuple(interval) if interval else None)

    def minus(self, other: Self) -> Self | None:
        """The difference, paired by seed; None if the two have no seed in common."""
        if not self.seeds and not other.seeds:
            return type(self)(self.mean - other.mean)
        common = [seed for seed in self.seeds if seed in other.seeds]
        if not common:
            return None
        return self.over({seed: self.seeds[seed] - other.seeds[seed] for seed in common})

    def json(self) -> dict[str, Any]:
        """Unrounded."""
        return {
            "mean": self.mean,
            "spread": self.spread,
            "n": len(self.seeds),
            "seeds": {str(seed): value for seed, value in self.seeds.items()},
            "interval": self.interval and list(self.interval),
        }


def average(scores: Sequence[Score]) -> Score | None:
    """Mean of several scores, seed by seed; None if they have no seed in common."""
    common = [s for s in scores[0].seeds if all(s in score.seeds for score in scores)]
    if not common:
        return None
    return Score.over({s: statistics.fmean(score.seeds[s] for score in scores) for s in common})


class Scores:
    """The content of a results file; names are listed in the order of their first line.

    Attributes:
      truncated: number of lines that a killed process left unfinished; the sweep measures their
        trials again.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]], truncated: int = 0):
        self.truncated = truncated
        self._seeds: dict[Condition, dict[int, Mapping[str, Any]]] = {}
        for line in lines:
            condition = Condition(*(line[name] for name in Condition._fields))
            self._seeds.setdefault(condition, {})[line["seed"]] = line

    @functools.cached_property
    def conditions(self) -> list[Condition]:
        """All that were measured, including those without a finite number."""
        return list(self._seeds)

    def seeds(self, condition: Condition) -> list[int]:
        """The seeds that were measured."""
        return sorted(self._seeds.get(condition, ()))

    def metrics(self, condition: Condition) -> list[str]:
        """The metrics that were measured."""
        lines = self._seeds.get(condition, {}).values()
        return list(dict.fromkeys(name for line in lines for name in line["metrics"]))

    def score(self, condition: Condition, metric: str) -> Score | None:
        """None if there is no finite number."""
        values, interval = {}, None
        for seed, line in sorted(self._seeds.get(condition, {}).items()):
            found = line["metrics"].get(metric) or {}
            if found.get("value") is not None and math.isfinite(found["value"]):
                values[seed], interval = found["value"], found.get("interval")
        return Score.over(values, interval) if values else None

    def interval_widths(self, condition: Condition, metric: str) -> list[float]:
        """Widths of the 95 % intervals over products, one for each seed that has one."""
        lines = self._seeds.get(condition, {}).values()
        found = (line["metrics"].get(metric) or {} for line in lines)
        return [each["interval"][1] - each["interval"][0] for each in found if each.get("interval")]

    def cost(self, condition: Condition, name: str) -> Score | None:
        """One of `results.COSTS`, of a condition whose task is pretraining."""
        lines = sorted(self._seeds.get(condition, {}).items())
        values = {seed: line[name] for seed, line in lines if line.get(name) is not None}
        return Score.over(values) if values else None

    def sample_sizes(self, conditions: Iterable[Condition]) -> dict[int, tuple[int, int]]:
        """Numbers of examples and products by seed.

        Where products are cut into folds, these differ by seed; the largest of a seed counts.
        """
        found: dict[int, tuple[int, int]] = {}
        for condition in conditions:
            for seed, line in self._seeds.get(condition, {}).items():
                pair = (line.get("examples") or 0, line.get("products") or 0)
                found[seed] = max(pair, found.get(seed, pair))
        return dict(sorted(found.items()))


class MetricView(NamedTuple):
    """One metric of one task on one level of data: the source of most tables."""

    scores: Scores
    data: str
    task: str
    metric: str
    training: str = ""  # corruption of the fine-tuning items

    @property
    def name(self) -> str:
        """The metric's name for readers."""
        return naming.metric_name(self.metric)

    def has_row(self, model: str) -> bool:
        """Whether the task's tables list the model: ablations only if K3M itself is missing."""
        return not naming.is_ablation(model) or not self.conditions(naming.is_ours)

    def conditions(self, select: Callable[[str], bool]) -> list[Condition]:
        """The conditions of the selected models."""
        own = (self.data, self.task, self.training)
        return [
            condition
            for condition in self.scores.conditions
            if (condition.data, condition.task, condition.training) == own
            and select(condition.model)
        ]

    def unmeasured_baselines(self) -> list[str]:
        """Baselines with results elsewhere only: "best" does not include them here."""
        here = {condition.model for condition in self.conditions(naming.is_baseline)}
        models = naming.models_in_order(c.model for c in self.scores.conditions)
        return [m for m in models if naming.is_baseline(m) and m not in here]

    def score(self, model: str, corruption: str) -> Score | None:
        """None if there is none."""
        condition = Condition(self.data, self.task, model, self.training, corruption)
        return self.scores.score(condition, self.metric)

    def lines(
        self, select: Callable[[str], bool], corruptions: Sequence[str]
    ) -> dict[str, list[Score | None]]:
        """Scores of each selected model, in order, under each corruption."""
        models = naming.models_in_order(c.model for c in self.conditions(select))
        return {m: [self.score(m, corruption) for corruption in corruptions] for m in models}


def read_scores(path: pathlib.Path) -> Scores:
    """Reads a results file; of repeated trials the last line counts.

    Raises:
      UserError: the file does not exist, has no results, or has a line that is not a result.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; launch.sweep writes it into its --workdir")
    found = read_lines(path)
    if not found.lines:
        raise UserError(f"{path} has no result: let launch.sweep measure something first")
    return Scores(*found)
