"""One HTML file to look at: products, their neighbours, what they lack and what would be filled in.

Nothing is loaded from elsewhere and no script runs: pictures are in the file, the text of products
is escaped, and the page forbids the browser everything else.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from k3m_jax.data.records import Record
from k3m_jax.data.store.value_vocabulary import normalised

COMMON = 0.5  # share of the neighbours that have a property which a product lacks
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em;
  color: #222; background: #fff }
article { border-top: 1px solid #ccc; padding: 1em 0; display: grid; gap: 1.5em;
  grid-template-columns: 16em 1fr }
img, .none { width: 96px; height: 96px; object-fit: contain; background: #f4f4f4; display: block }
.none { text-align: center; line-height: 96px; color: #888 }
.near { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 8.5em; overflow-wrap: anywhere; font-size: 12px }
.same { outline: 3px solid #2a7f3f }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .8em; margin: .5em 0; font-size: 12px }
dd { margin: 0; overflow-wrap: anywhere }
small { color: #666 }
h2 { font-size: 15px; margin: .4em 0 }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Entry(NamedTuple):
    """A product of the gallery."""

    record: Record
    near: Sequence[tuple[Record, float]]  # its neighbours with their cosines
    filled: Mapping[str, Sequence[tuple[str, float]]]  # property -> values, the best first


def lacking(record: Record, near: Sequence[Record]) -> list[str]:
    """Properties that at least half of the neighbours have and a product lacks, commonest first."""
    own = {normalised(name) for name, _ in record.triples}
    counts: dict[str, int] = {}
    spellings: dict[str, str] = {}
    for other in near:
        names = {normalised(name): name for name, _ in other.triples}
        spellings = names | spellings
        for key in names:
            counts[key] = counts.get(key, 0) + 1
    common = [key for key, n in counts.items() if key not in own and n >= COMMON * len(near)]
    return [spellings[key] for key in sorted(common, key=lambda key: (-counts[key], key))]


def render(title: str, facts: Sequence[str], entries: Sequence[Entry]) -> str:
    """The page; `facts` are lines of its head."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            *(f"<p>{html.escape(fact)}</p>" for fact in facts),
            "<p><small>Framed: listed as the same product. Scores are cosines.</small></p>",
            *map(_article, entries),
            "</body></html>\n",
        ]
    )


def _article(entry: Entry) -> str:
    record = entry.record
    near = "".join(
        f"<figure{_frame(record, other)}>{_picture(other)}{_text(other.title or other.id)}"
        f"<br><small>{score:.3f}</small></figure>"
        for other, score in entry.near
    )
    missing = {name: _values(values) for name, values in entry.filled.items()}
    filled = f"<h2>Missing, and would be filled in</h2>{_list(missing)}" if missing else ""
    own: dict[str, str] = {}
    for name, value in record.triples:
        own[name] = f"{own[name]}, {_text(value)}" if name in own else _text(value)
    return (
        f"<article><div>{_picture(record)}<h2>{_text(record.title or '(no title)')}</h2>"
        f"<small>{_text(record.id)}</small>{_list(own)}</div>"
        f'<div><h2>Neighbours</h2><div class="near">{near}</div>{filled}</div></article>'
    )


def _frame(record: Record, other: Record) -> str:
    return ' class="same"' if record.product == other.product else ""


def _values(values: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{_text(value)} <small>{score:.2f}</small>" for value, score in values)


def _list(rows: Mapping[str, str]) -> str:
    """A definition list; the values are HTML already."""
    return f"<dl>{''.join(f'<dt>{_text(k)}</dt><dd>{v}</dd>' for k, v in rows.items())}</dl>"


def _picture(record: Record) -> str:
    if not record.picture:
        return '<div class="none">no picture</div>'
    data = base64.b64encode(record.picture).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _text(text: str) -> str:
    return html.escape(text)
