"""Writes the tables of settings in docs/configuration.md from the schema.

  python -m launch.document_settings

The text before the tables is kept.
"""

import dataclasses
import pathlib
import re

from k3m_jax.settings import Settings
from k3m_jax.settings.schema import Setting, groups_of, option
from launch import cli

HEADING = "## All settings\n"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    file: str = option("docs/configuration.md", "the page")


def document(page: str) -> str:
    """The page with the tables of today's schema after its heading."""
    prose = page[: page.index(HEADING)]
    note = "<!-- Made by python -m launch.document_settings: edit k3m_jax/settings instead. -->"
    parts = [f"{prose}{HEADING}\n{note}"]
    for name, description, settings in groups_of(Settings()):
        if settings:
            title = f"**`{name}`:** {_linked(description)}\n\n" * bool(name)
            rows = ["| key | default | meaning |", "|---|---|---|", *map(_row, settings)]
            parts.append(title + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _row(setting: Setting) -> str:
    return f"| `{setting.name}` | `{setting.default!r}` | {_linked(setting.description)} |"


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def main(flags: Flags) -> None:
    """Writes the page."""
    path = pathlib.Path(flags.file)
    path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
