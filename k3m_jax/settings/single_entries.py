"""One text for a setting that takes many, on a command line."""

from collections.abc import Sequence

from k3m_jax.settings.schema import Setting, groups_of
from k3m_jax.settings.settings import Settings


def quoted(argument: str, options: Sequence[Setting]) -> str:
    """An argument whose value is one entry of a tuple of texts, as that tuple in Python.

    ml_collections reads such values as Python: a path with a space, or one called 2024, is none.
    """
    name, equals, value = argument.lstrip("-").partition("=")
    flag = next((o for o in options if o.kind is Settings and name.startswith(f"{o.name}.")), None)
    if not (flag and equals and value) or value[0] in "([\"'" or "," in value:
        return argument
    for _, _, settings in groups_of(Settings(), flag.name):
        if any(s.name == name and s.kind == tuple[str, ...] for s in settings):
            return f"--{name}={(value,)!r}"
    return argument
