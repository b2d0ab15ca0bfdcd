"""A report as Markdown."""

import os
import pathlib
from collections.abc import Iterator

from k3m_jax.evaluation.report import markdown_table
from k3m_jax.sweeps.report.document import Figure, Row, Section, Table


def render(report: Section, folder: pathlib.Path) -> str:
    """The text of a file that lies in `folder`, to which figures are told relatively."""
    return "\n\n".join(_section(report, 1, folder)) + "\n"


def _section(section: Section, depth: int, folder: pathlib.Path) -> Iterator[str]:
    if section.folded:
        yield f"<details><summary>{section.title}</summary>"
    else:
        yield f"{'#' * depth} {section.title}"
    for block in section.blocks:
        if isinstance(block, Section):
            yield from _section(block, depth + 1, folder)
        elif isinstance(block, Table):
            yield f"**{block.title}**"
            yield "\n".join(_table(block))
            if block.note:
                yield block.note
        elif isinstance(block, Figure):
            yield f"![{block.title}]({os.path.relpath(block.png, folder)})"
            if block.note:
                yield block.note
        else:
            yield block
    if section.folded:
        yield "</details>"


def _table(table: Table) -> list[str]:
    lines = [("", *(column.name for column in table.columns))]
    for row, cells in table.cells():
        name = f"**{row.name}**" if row.kind == "ours" else row.name
        texts = [_cell(row, i, *cell) for i, cell in enumerate(cells)]
        lines.append((name, *texts))
    return markdown_table(lines)


def _cell(row: Row, column: int, text: str, aside: str) -> str:
    if row.kind == "ours":
        text = f"**{text}**"
    elif column in row.best:
        text = f"*{text}*"
    return f"{text} ({aside})" if aside else text
