"""Which modalities and objectives each preset has; `release` is added by its reproduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from k3m_jax.settings import Settings


class Preset(NamedTuple):
    """A model's modalities and pretraining objectives, by the names of their registries."""

    modalities: tuple[str, ...]
    objectives: tuple[str, ...]
    validate: Callable[[Settings], None] | None = None  # raises UserError for a contradiction


PRESETS: dict[str, Preset] = {
    "paper": Preset(("title", "image", "knowledge"), ("mlm", "mom", "lpm")),
    "bert": Preset(("title",), ("mlm",)),
    "vilbert": Preset(("title", "image"), ("mlm", "mom")),
    "vlbert": Preset(("title", "image"), ("mlm", "mom")),
    "lxmert": Preset(("title", "image"), ("mlm", "mom")),
}
