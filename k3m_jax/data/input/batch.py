"""What batches hold and how their rows are made; the legend of shape letters used everywhere.

    B  items of a batch                       T  tokens of a title (see `Settings.text_length`)
    K  tokens of the knowledge text           X  triples of an item that the model sees
    N  regions or patches of a picture        R  N + 1, the global region first
    F  numbers per region as they come in     C  region classes; c  classes kept per region
    D  width of the text side                 Dv width of the image side
    V  vocabulary                             M  hidden tokens of a title at most
    L  tokens of one candidate                J  1 + negative values: the candidates of an item,
    O  other items per item as negatives         the true triple first
    H  attention heads                        G  rows of a group (see `settings.Objectives`)

Only the masks say what is present: a title is absent where `title_content` is empty, a picture
where `region_mask` is, knowledge where `triple_mask` is. Spans are [start, end) token positions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from absl import logging

from k3m_jax import modalities, tasks
from k3m_jax.data.corruption import EVALUATION_SEED
from k3m_jax.data.input.packing import TextPacking
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.base import Array, Contents, Generators, Modality
from k3m_jax.objectives.base import Hiding, Objective
from k3m_jax.settings import Settings

Batch = Mapping[str, np.ndarray]
FIRST = ("title", "image", "knowledge")  # to draw generators; further modalities follow
NO_VALUES = ValueVocabulary((), ())


class PretrainingExample(NamedTuple):
    """What a row of a batch is made of: targets drawn and hidden, texts tokenised, not padded."""

    view: ItemView
    encoded: Mapping[str, Any]  # by modality
    targets: Mapping[str, Any]  # by objective


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """Which modalities and targets the batches of a run hold."""

    modalities: tuple[Modality, ...]
    objectives: tuple[Objective, ...]
    group: int  # G
    packing: TextPacking | None = None  # training texts are padded without

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Of a run's training batches; UserError for a modality or an objective not known."""
        objectives = tasks.training_objectives(settings)
        layout = cls(modalities.active(settings), objectives, settings.objectives.group)
        packing = TextPacking.of(settings, layout.arrays)
        return dataclasses.replace(layout, packing=packing)

    @property
    def padded(self) -> Self:
        """The same without packed text."""
        return dataclasses.replace(self, packing=None)

    @property
    def unit(self) -> int:
        """Adjacent items that belong together: a device has whole units."""
        return self.packing.items if self.packing else self.group

    @classmethod
    def for_inference(cls, settings: Settings) -> Self:
        """Without targets, in groups of one row, so that any number of rows will do."""
        return cls(modalities.active(settings), (), 1)

    @property
    def products(self) -> dict[str, Array]:
        """The arrays that hold what a product is, by name."""
        return {name: a for m in self.modalities for name, a in m.arrays.items()}

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays but packed text by name, without their first dimension, B."""
        return self.products | {name: a for o in self.objectives for name, a in o.arrays.items()}

    def spec(self, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array of a batch of `rows` items."""
        arrays = self.arrays
        spec = {name: ((rows, *a.shape), np.dtype(a.dtype)) for name, a in arrays.items()}
        return spec | (self.packing.spec(rows, arrays) if self.packing else {})

    def collate(
        self,
        examples: Sequence[PretrainingExample | None],
        groups: Sequence[int] = (),
        seed: int = EVALUATION_SEED,
        *,
        evaluation: bool = False,
    ) -> dict[str, np.ndarray]:
        """Pads examples, whole groups of them, into a batch; None is a row of padding, all 0.

        `groups` is the number of each group in the whole run: with it hosts that make a part each
        make together what one would alone. `evaluation` adds what the host alone reads.
        """
        spec = self.padded.spec(len(examples))
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.items()}
        for modality in self.modalities:
            modality.blank(arrays)
        for index, example in enumerate(examples):
            if example is not None:
                row = {name: array[index, ...] for name, array in arrays.items()}
                for modality in self.modalities:
                    modality.write(row, example.encoded[modality.name])
                for objective in self.objectives:
                    objective.write(row, example.targets[objective.name], example.encoded)
        for number, start in zip(groups, range(0, len(examples), self.group), strict=False):
            rows = slice(start, start + self.group)
            group = {name: array[rows] for name, array in arrays.items()}
            for objective in self.objectives:
                objective.write_group(group, examples[rows], (seed, number))
        for objective in self.objectives if evaluation else ():
            arrays |= objective.evaluation_arrays(examples)
        return arrays | (self.packing.pack(arrays) if self.packing else {})


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleBuilder:
    """Makes examples; all chance is in the generator that it is given. Pickles.

    A stored content that can't be read must not end a run: its modality counts as absent.
    """

    layout: BatchLayout
    tokenizer: Tokenizer
    vocabulary: ValueVocabulary = NO_VALUES
    training: bool = False  # triples in random order, and some targets stay visible
    strict: bool = False  # raises what can't be read

    def __call__(self, view: ItemView, rng: np.random.Generator) -> PretrainingExample:
        """The example of an item as the model is to see it."""
        active = self.layout.modalities
        # A stream for each modality, so that one that is missing changes nothing else.
        names = [*FIRST, *(m.name for m in active if m.name not in FIRST)]
        seeds = rng.integers(2**63, size=len(names))
        generators = dict(zip(names, map(np.random.default_rng, seeds), strict=True))
        hiding = Hiding(self.tokenizer, self.vocabulary, generators, self.training)
        order = generators if self.training else {}
        contents, targets = dict(view.visible), {}
        for objective in self.layout.objectives:
            targets[objective.name], contents = objective.select(view, contents, hiding)
        encoded = {m.name: self._encode(m, view.record.id, contents, order) for m in active}
        for objective in self.layout.objectives:
            name = objective.name
            targets[name], encoded = objective.hide(targets[name], encoded, hiding)
        return PretrainingExample(view, encoded, targets)

    def _encode(self, kind: Modality, item: str, contents: Contents, order: Generators) -> Any:
        try:
            return kind.encode(contents, self.tokenizer, order)
        except Exception as error:  # decoders of broken files raise nearly anything
            if self.strict:
                raise
            message = "taken as absent, one of up to 100: %s of %s: %s"
            logging.log_every_n(logging.WARNING, message, 100, kind.name, item, error)
            return kind.encode({**contents, kind.name: kind.empty}, self.tokenizer, order)
