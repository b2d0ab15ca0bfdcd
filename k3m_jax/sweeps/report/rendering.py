"""A report as Markdown, and as one page of HTML that loads nothing else."""

import base64
import html
import importlib.resources
import os
import pathlib
import re
from collections.abc import Iterator

from k3m_jax.evaluation.report import markdown_table
from k3m_jax.sweeps.grid import slug
from k3m_jax.sweeps.report.document import Figure, Row, Section, Table
from k3m_jax.sweeps.report.figures import INK

TOP = 2  # heading level of the page's own sections


def render_markdown(report: Section, folder: pathlib.Path) -> str:
    """The text of a file in `folder`; paths of figures are relative to it."""
    return "\n\n".join(_markdown_section(report, 1, folder)) + "\n"


def render_html(report: Section) -> str:
    """One page with all styles and figures in it; links at its top lead to the first sections."""
    style = importlib.resources.files("k3m_jax.sweeps.report") / "page.css"
    title = html.escape(report.title)
    inner = [block for block in report.blocks if isinstance(block, Section)]
    links = "".join(f'<a href="#{_anchor(s)}">{html.escape(s.title)}</a>' for s in inner)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style.read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{title}</h1>
<nav>{links}</nav></header>
<main>
{chr(10).join(_html_blocks(report, TOP))}
</main>
</body>
</html>
"""


def _markdown_section(section: Section, depth: int, folder: pathlib.Path) -> Iterator[str]:
    if section.folded:
        yield f"<details><summary>{section.title}</summary>"
    else:
        yield f"{'#' * depth} {section.title}"
    for block in section.blocks:
        if isinstance(block, Section):
            yield from _markdown_section(block, depth + 1, folder)
        elif isinstance(block, str):
            yield block
        else:
            if isinstance(block, Table):
                yield f"**{block.title}**"
                yield "\n".join(_markdown_table(block))
            else:
                yield f"![{block.title}]({os.path.relpath(block.png, folder)})"
            if block.note:
                yield block.note
    if section.folded:
        yield "</details>"


def _markdown_table(table: Table) -> list[str]:
    lines = [("", *(column.name for column in table.columns))]
    for row, cells in table.cells():
        name = f"**{row.name}**" if row.kind == "ours" else row.name
        texts = [_markdown_cell(row, i, *cell) for i, cell in enumerate(cells)]
        lines.append((name, *texts))
    return markdown_table(lines)


def _markdown_cell(row: Row, column: int, text: str, suffix: str) -> str:
    if row.kind == "ours":
        text = f"**{text}**"
    elif column in row.best:
        text = f"*{text}*"
    return f"{text} ({suffix})" if suffix else text


def _html_blocks(section: Section, depth: int) -> Iterator[str]:
    for block in section.blocks:
        if isinstance(block, Section):
            title, inner = html.escape(block.title), "\n".join(_html_blocks(block, depth + 1))
            if block.folded:
                yield f"<details><summary>{title}</summary>\n{inner}\n</details>"
            else:
                head = f"<h{depth}>{title}</h{depth}>"
                # The sections of every level of data have the same titles: no anchors for them.
                name = f' id="{_anchor(block)}"' if depth == TOP else ""
                yield f"<section{name}>{head}\n{inner}\n</section>"
        elif isinstance(block, Table):
            yield _html_table(block)
        elif isinstance(block, Figure):
            yield _html_figure(block)
        else:
            yield f"<p>{html.escape(block)}</p>"


def _html_table(table: Table) -> str:
    names = (html.escape(column.name).replace(" %", "&nbsp;%") for column in table.columns)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for row, cells in table.cells():
        texts = "".join(_html_cell(*cell, best=i in row.best) for i, cell in enumerate(cells))
        kind = f' class="{row.kind}"' if row.kind else ""
        rows.append(f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{texts}</tr>')
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    body = "\n".join(rows)
    return (
        f'<h4>{html.escape(table.title)}</h4>\n<div class="wide" tabindex="0"><table>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{note}"
    )


def _html_cell(text: str, suffix: str, *, best: bool) -> str:
    kind = ' class="best"' if best else ""
    small = f"<small>{html.escape(suffix)}</small>" if suffix else ""
    return f"<td{kind}>{html.escape(text)}{small}</td>"


def _html_figure(figure: Figure) -> str:
    title, note = html.escape(figure.title), html.escape(figure.note)
    if figure.svg.exists():
        drawn = _without_unused_ids(figure.svg.read_text(encoding="utf-8"))
        drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
        drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    else:
        data = base64.b64encode(figure.png.read_bytes()).decode()
        drawn = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return (
        f'<figure><div class="wide" tabindex="0">{drawn}</div>'
        f"<figcaption><strong>{title}.</strong> {note}</figcaption></figure>"
    )


def _without_unused_ids(svg: str) -> str:
    """All figures use the same ids; only those that are referred to are unique by content."""
    used = set(re.findall(r"#([\w-]+)", svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)


def _anchor(section: Section) -> str:
    return slug(section.title).lower()
