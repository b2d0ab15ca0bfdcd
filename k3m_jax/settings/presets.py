"""Which modalities and objectives each preset has; a reproduction registers its own."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A model's modalities and pretraining objectives, by the names of their registries."""

    modalities: tuple[str, ...]
    objectives: tuple[str, ...]
    # Takes the whole `Settings`, and raises UserError where they contradict the preset.
    validate: Callable[[Any], None] = lambda settings: None
    layer_schedule: bool = False  # whether it reads `model.interactor.{text,image}_layers`
    packed: tuple[str, ...] = ()  # texts that its model reads packed (`data.input.packing`)


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        ("title", "image", "knowledge"),
        ("mlm", "mom", "lpm"),
        packed=("title", "knowledge", "link"),
    ),
}
