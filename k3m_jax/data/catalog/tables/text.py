"""Cells to texts: HTML made plain, numbers and lists as they would be written."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from k3m_jax.modalities.base import number_text

TAG = re.compile(r"<!--|-->|</?[a-zA-Z][^<>]*>")
UNSEEN = {"script", "style"}  # elements whose content is no text
LONGEST = 100_000  # characters that are looked at: no model reads as many


def plain(text: str) -> str:
    """The text of a piece of HTML on one line; a text without markup keeps its words."""
    if "<" in text or "&" in text:
        parts, hidden, end = [], "", 0
        text = text[:LONGEST]
        for tag in TAG.finditer(text):
            if not hidden:
                parts.append(text[end : tag.start()])
            name = tag[0].strip("</>").split()[0].lower() if tag[0][1:3] != "!-" else "!"
            if hidden:
                closes = "-->" if hidden == "!" else f"</{hidden}"
                hidden = "" if tag[0].lower().startswith(closes) else hidden
            elif name == "!" or (name in UNSEEN and not tag[0].startswith("</")):
                hidden = name
            end = tag.end()
        text = html.unescape(" ".join(parts if hidden else [*parts, text[end:]]))
    return " ".join(text.split())


def _as_number(text: str) -> str:
    """What a column with gaps writes of whole numbers and booleans, as JSON has them."""
    if text in ("True", "False"):
        return text.lower()
    whole, _, rest = text.partition(".")
    return whole if rest and not rest.strip("0") and whole.lstrip("-").isdecimal() else text


def texts(value: Any, language: str = "") -> Iterator[str]:
    """What a cell says: no text, one, or those of its list; of several languages one is chosen."""
    match value:
        case None:
            return
        case str():
            found = _as_number(plain(value))
        case bytes():
            found = plain(value.decode(errors="replace"))
        case bool() | int() | float():
            found = number_text(value)
        case Mapping():
            if "value" in value:
                yield from texts(value["value"], language)
            return
        case list() | tuple():
            tags = [v.get("language_tag") for v in value if isinstance(v, Mapping)]
            tags = [tag for tag in tags if tag]
            chosen = next((t for t in tags if language and t.startswith(language)), None)
            chosen = chosen or (tags[0] if tags else None)
            for each in value:
                if not chosen or (isinstance(each, Mapping) and each.get("language_tag") == chosen):
                    yield from texts(each, language)
            return
        case _:
            found = plain(str(value))  # decimals, dates
    if found:
        yield found
