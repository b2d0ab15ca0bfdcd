"""A report as one page of HTML that needs nothing else: styles and figures are in it."""

import base64
import html
import importlib.resources
import re
from collections.abc import Iterator

from k3m_jax.sweeps.grid import slug
from k3m_jax.sweeps.report.document import Figure, Section, Table
from k3m_jax.sweeps.report.figures import INK

TOP = 2  # level of the heading of the page's own sections


def render(report: Section) -> str:
    """The page; the first sections are named at its top, to jump to."""
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
{chr(10).join(_blocks(report, TOP))}
</main>
</body>
</html>
"""


def _blocks(section: Section, depth: int) -> Iterator[str]:
    for block in section.blocks:
        if isinstance(block, Section):
            title, inner = html.escape(block.title), "\n".join(_blocks(block, depth + 1))
            if block.folded:
                yield f"<details><summary>{title}</summary>\n{inner}\n</details>"
            else:
                head = f"<h{depth}>{title}</h{depth}>"
                # A level's own sections are called alike in every level.
                name = f' id="{_anchor(block)}"' if depth == TOP else ""
                yield f"<section{name}>{head}\n{inner}\n</section>"
        elif isinstance(block, Table):
            yield _table(block)
        elif isinstance(block, Figure):
            yield _figure(block)
        else:
            yield f"<p>{html.escape(block)}</p>"


def _table(table: Table) -> str:
    names = (html.escape(column.name).replace(" %", "&nbsp;%") for column in table.columns)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for row, cells in table.cells():
        texts = "".join(_cell(*cell, best=i in row.best) for i, cell in enumerate(cells))
        kind = f' class="{row.kind}"' if row.kind else ""
        rows.append(f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{texts}</tr>')
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    body = "\n".join(rows)
    return (
        f'<h4>{html.escape(table.title)}</h4>\n<div class="wide" tabindex="0"><table>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{note}"
    )


def _cell(text: str, aside: str, *, best: bool) -> str:
    kind = ' class="best"' if best else ""
    small = f"<small>{html.escape(aside)}</small>" if aside else ""
    return f"<td{kind}>{html.escape(text)}{small}</td>"


def _figure(figure: Figure) -> str:
    title, note = html.escape(figure.title), html.escape(figure.note)
    if figure.svg.exists():
        drawn = _without_idle_ids(figure.svg.read_text(encoding="utf-8"))
        drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
        drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    else:
        data = base64.b64encode(figure.png.read_bytes()).decode()
        drawn = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return (
        f'<figure><div class="wide" tabindex="0">{drawn}</div>'
        f"<figcaption><strong>{title}.</strong> {note}</figcaption></figure>"
    )


def _without_idle_ids(svg: str) -> str:
    """Every figure calls its parts alike; those that are referred to are named by their content."""
    used = set(re.findall(r"#([\w-]+)", svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)


def _anchor(section: Section) -> str:
    return slug(section.title).lower()
