"""The results of a grid as scores: one number per metric and place, over seeds."""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from k3m_jax.settings import UserError
from k3m_jax.sweeps.results import read_lines


class Place(NamedTuple):
    """What a score is of: a cell of the grid, whatever its seed."""

    data: str
    task: str
    model: str
    training: str  # corruption of the fine-tuning items, as `settings.Corruption` writes it
    corruption: str  # of the measured items; "" is none


@dataclasses.dataclass(frozen=True)
class Score:
    """A number, over seeds where there are any: a published one has none."""

    mean: float
    spread: float | None = None  # standard deviation (of a sample) over seeds; None below two
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    interval: tuple[float, float] | None = None  # 95 %, over products; of a single seed alone

    @classmethod
    def over(cls, seeds: Mapping[int, float], interval: Sequence[float] | None = None) -> Self:
        """Of the numbers by seed, of which there is one at least."""
        numbers = list(seeds.values())
        if len(numbers) > 1:
            return cls(statistics.fmean(numbers), statistics.stdev(numbers), seeds)
        return cls(numbers[0], None, seeds, tuple(interval) if interval else None)

    def minus(self, other: Self) -> Self | None:
        """The difference, paired by seed; None where the two have no seed in common."""
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
    """Of several scores, seed by seed; None where they have no seed in common."""
    common = [s for s in scores[0].seeds if all(s in score.seeds for score in scores)]
    if not common:
        return None
    return Score.over({s: statistics.fmean(score.seeds[s] for score in scores) for s in common})


class Scores:
    """All that a results file says; a name is listed in the order in which it first comes.

    Attributes:
      cut_short: how many lines were, where a process was killed; the sweep measures these anew.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]], cut_short: int = 0):
        self.cut_short = cut_short
        self._seeds: dict[Place, dict[int, Mapping[str, Any]]] = {}
        for line in lines:
            place = Place(*(line[name] for name in Place._fields))
            self._seeds.setdefault(place, {})[line["seed"]] = line

    @functools.cached_property
    def places(self) -> list[Place]:
        """Where anything was measured, or failed to give a number."""
        return list(self._seeds)

    def seeds(self, place: Place) -> list[int]:
        """Those that were measured there."""
        return sorted(self._seeds.get(place, ()))

    def metrics(self, place: Place) -> list[str]:
        """What was measured there."""
        lines = self._seeds.get(place, {}).values()
        return list(dict.fromkeys(name for line in lines for name in line["metrics"]))

    def score(self, place: Place, metric: str) -> Score | None:
        """None where nothing was measured, or no number came of it."""
        values, interval = {}, None
        for seed, line in sorted(self._seeds.get(place, {}).items()):
            told = line["metrics"].get(metric) or {}
            if told.get("value") is not None and math.isfinite(told["value"]):
                values[seed], interval = told["value"], told.get("interval")
        return Score.over(values, interval) if values else None

    def interval_widths(self, place: Place, metric: str) -> list[float]:
        """Of the 95 % intervals over products, one for each seed that has one."""
        told = (line["metrics"].get(metric) or {} for line in self._seeds.get(place, {}).values())
        return [each["interval"][1] - each["interval"][0] for each in told if each.get("interval")]

    def cost(self, place: Place, name: str) -> Score | None:
        """One of `grid_results.COSTS`, of a place whose task is pretraining."""
        lines = sorted(self._seeds.get(place, {}).items())
        values = {seed: line[name] for seed, line in lines if line.get(name) is not None}
        return Score.over(values) if values else None

    def asked(self, places: Iterable[Place]) -> dict[int, tuple[int, int]]:
        """By seed the examples and products that were asked about in some places.

        Where products are cut into folds, sets differ by seed; of a seed the largest is told.
        """
        found: dict[int, tuple[int, int]] = {}
        for place in places:
            for seed, line in self._seeds.get(place, {}).items():
                pair = (line.get("examples") or 0, line.get("products") or 0)
                found[seed] = max(pair, found.get(seed, pair))
        return dict(sorted(found.items()))


def read_scores(path: pathlib.Path) -> Scores:
    """Reads a results file; of a cell that stands there twice the later line counts.

    Raises:
      UserError: there is no such file, it has no result, or a line of it is none.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; launch.sweep writes it into its --workdir")
    found = read_lines(path)
    if not found.lines:
        raise UserError(f"{path} has no result: let launch.sweep measure something first")
    return Scores(*found)
