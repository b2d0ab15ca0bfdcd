"""What a run learns: to embed, or a downstream task."""

import dataclasses

from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns: to embed, or a downstream task on the embedding (docs/tasks.md)."""

    name: str = option("pretraining", "or a downstream task: classification, alignment, questions")
    shown: tuple[str, ...] = option(("title", "image", "knowledge"), "modalities of an item")
    first_shown: tuple[str, ...] = option(("title", "knowledge"), "alignment: of the first item")
    second_shown: tuple[str, ...] = option(("image",), "alignment: of the second item")
    hidden_words: tuple[str, ...] = option((), "words that no title shows; @FILE: those of a file")
    hidden_properties: tuple[str, ...] = option((), "properties whose triples no item shows")
    shown_properties: tuple[str, ...] = option((), "the only ones whose triples show; () is all")
    catalogues: tuple[str, ...] = option((), "only items whose `source` is among these; () is all")
    label: str = option("category", "classification: the category, or a property")
    classes: tuple[str, ...] = option((), "of the label; () is those that training items have")
    min_items: PositiveInt = option(1, "classification: training items of a class at least")
    hide_classes: bool = option(False, "classification: titles show no word of a class' name")
    labels_per_class: NonNegativeInt = option(0, "classification: to learn from; 0 is all")
    pair_kinds: tuple[str, ...] = option((), "alignment: only pairs of these kinds; () is all")
    questions: NonNegativeInt = option(3, "most properties queried per item; 0 is all")

    @property
    def downstream(self) -> bool:
        """Whether the task is another than pretraining."""
        return self.name != "pretraining"
