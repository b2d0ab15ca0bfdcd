"""What a report consists of, whatever it is written as: sections of text, tables and figures."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from k3m_jax.sweeps.report.scores import Score

ABSENT = "–"
Cell = Score | str | None


@dataclasses.dataclass(frozen=True)
class Column:
    """Of a table; `share` is shown in per cent, `points` is a difference of two such."""

    name: str
    unit: Literal["share", "points", "count", "flops", "text"] = "share"


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a table.

    `best` are the columns, by index, where it is the best baseline that is given what K3M is.
    """

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["", "ours", "difference", "floor"] = ""
    best: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under columns; `key` tells it from all others."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def cells(self) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
        """Each row with its cells as text: the number, and what stands small beside it."""
        scores = [cell for row in self.rows for cell in row.cells if isinstance(cell, Score)]
        most = max((len(score.seeds) for score in scores), default=0)
        for row in self.rows:
            # A floor knows no chance: one seed is all that there is to it.
            seeds = 0 if row.kind == "floor" else most
            units = ("points" if row.kind == "difference" else c.unit for c in self.columns)
            yield row, [_shown(*each, seeds) for each in zip(row.cells, units, strict=True)]

    def json(self) -> dict[str, Any]:
        """Unrounded."""
        rows = [
            {
                "name": row.name,
                "kind": row.kind,
                "best": sorted(row.best),
                "cells": [c.json() if isinstance(c, Score) else c for c in row.cells],
            }
            for row in self.rows
        ]
        columns = [dataclasses.asdict(column) for column in self.columns]
        told = {"key": self.key, "title": self.title, "columns": columns, "rows": rows}
        return told | {"note": self.note}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing: `path` and .png, and the same as .svg where it is no photograph."""

    path: pathlib.Path
    title: str
    note: str = ""

    @property
    def png(self) -> pathlib.Path:
        """The file that every figure has."""
        return self.path.with_name(f"{self.path.name}.png")

    @property
    def svg(self) -> pathlib.Path:
        """The file that a photograph has not."""
        return self.path.with_name(f"{self.path.name}.svg")


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a title, in order; text is a paragraph. `folded` is shown when asked for."""

    title: str
    blocks: tuple["Block", ...]
    folded: bool = False

    def tables(self) -> Iterator[Table]:
        """All that are in it."""
        for block in self.blocks:
            if isinstance(block, Table):
                yield block
            elif isinstance(block, Section):
                yield from block.tables()


Block = str | Table | Figure | Section


def _shown(cell: Cell, unit: str, seeds: int) -> tuple[str, str]:
    if cell is None or isinstance(cell, str):
        return cell or ABSENT, ""
    text = _number(cell.mean, unit)
    if cell.spread is not None:
        text += f" ± {_number(cell.spread, 'share' if unit == 'points' else unit)}"
    # Behind a difference of one seed there is neither spread nor interval: it is always told.
    least = max(seeds, 2) if seeds and unit == "points" else seeds
    few = f"n={len(cell.seeds)}" if 0 < len(cell.seeds) < least else ""
    low_to_high = "–".join(_number(x, unit) for x in cell.interval) if cell.interval else ""
    return text, ", ".join(filter(None, (low_to_high, few)))


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f}"
    if unit == "points":
        # No sign where nothing is left of the number.
        return f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 5e-4 else "0.0"
    return f"{value:.3g}".replace("e+", "e") if unit == "flops" else f"{value:,.0f}"
