"""The content of a report, independent of its format: sections of text, tables and figures."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from k3m_jax.sweeps.report.scores import Score

ABSENT = "–"
Cell = Score | str | None


@dataclasses.dataclass(frozen=True)
class Column:
    """Of a table; a `share` is shown in per cent, `points` is the difference of two shares."""

    name: str
    unit: Literal["share", "points", "count", "flops", "text"] = "share"


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a table.

    `best` holds the indices of the columns where it is the best baseline with K3M's inputs.
    """

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["", "ours", "difference", "trivial"] = ""
    best: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under columns; `key` is unique in the report."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def cells(self) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
        """Each row with its cells as text: the number, and a suffix in small print."""
        scores = [cell for row in self.rows for cell in row.cells if isinstance(cell, Score)]
        most = max((len(score.seeds) for score in scores), default=0)
        for row in self.rows:
            # Trivial baselines are deterministic: one seed is complete.
            seeds = 0 if row.kind == "trivial" else most
            units = ("points" if row.kind == "difference" else c.unit for c in self.columns)
            yield row, [_format(*each, seeds) for each in zip(row.cells, units, strict=True)]

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
        return {
            "key": self.key,
            "title": self.title,
            "columns": columns,
            "rows": rows,
            "note": self.note,
        }


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing at `path` + .png, and also + .svg unless it shows photographs."""

    path: pathlib.Path
    title: str
    note: str = ""

    @property
    def png(self) -> pathlib.Path:
        """Always there."""
        return self.path.with_name(f"{self.path.name}.png")

    @property
    def svg(self) -> pathlib.Path:
        """Missing for figures with photographs."""
        return self.path.with_name(f"{self.path.name}.svg")


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a title, in order; text is a paragraph. `folded` ones open on a click."""

    title: str
    blocks: tuple["Block", ...]
    folded: bool = False

    def tables(self) -> Iterator[Table]:
        """All tables in it and in its subsections."""
        for block in self.blocks:
            if isinstance(block, Table):
                yield block
            elif isinstance(block, Section):
                yield from block.tables()


Block = str | Table | Figure | Section


def _format(cell: Cell, unit: str, seeds: int) -> tuple[str, str]:
    if cell is None or isinstance(cell, str):
        return cell or ABSENT, ""
    text = _number(cell.mean, unit)
    if cell.spread is not None:
        text += f" ± {_number(cell.spread, 'share' if unit == 'points' else unit)}"
    # A difference of one seed has neither spread nor interval, so it always shows n.
    least = max(seeds, 2) if seeds and unit == "points" else seeds
    few = f"n={len(cell.seeds)}" if 0 < len(cell.seeds) < least else ""
    low_to_high = "–".join(_number(x, unit) for x in cell.interval) if cell.interval else ""
    return text, ", ".join(filter(None, (low_to_high, few)))


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f}"
    if unit == "points":
        # No sign on a number that rounds to 0.
        return f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 5e-4 else "0.0"
    return f"{value:.3g}".replace("e+", "e") if unit == "flops" else f"{value:,.0f}"
