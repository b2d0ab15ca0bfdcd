"""What a command prints for `--help`."""

import dataclasses
import textwrap
from collections.abc import Sequence

from k3m_jax.settings.schema import Setting, groups_of
from k3m_jax.settings.settings import Settings


def help_text(text: str, options: Sequence[Setting]) -> str:
    """A command's docstring, its flags, and the keys of each group of settings among them."""
    lines = [text.strip(), "", "Flags:", *map(_described, options)]
    for flag in options:
        group = Settings() if flag.kind is Settings else flag.default
        if flag.kind is Settings:
            lines.append("  --print_config  print the settings as JSON, and exit")
        if dataclasses.is_dataclass(group):
            for name, description, settings in groups_of(group, flag.name):
                lines += ["", f"{name}: {description}", *map(_described, settings)]
    return "\n".join(lines)


def _described(flag: Setting) -> str:
    if dataclasses.is_dataclass(flag.default):
        return f"  --{flag.name}.KEY  see below"
    needed = flag.default is dataclasses.MISSING
    value, end = ("", " (required)") if needed else (f"={flag.default}", "")
    text = f"--{flag.name}{value}  {flag.description}{end}"
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent=" " * 6)
