"""The whole schema, and the rules between its groups."""

import dataclasses
import json
from typing import Annotated, Any, Self

import ml_collections

from k3m_jax.settings import groups
from k3m_jax.settings.presets import PRESETS
from k3m_jax.settings.schema import Range, UserError, check_choice, check_multiple, option, parse
from k3m_jax.settings.task import Task


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run is configured by."""

    seed: Annotated[int, Range(0, 2**32 - 1)] = option(0, "of all random numbers")
    init_from: str = option("", "weights, or a run's --workdir, to start from (docs/weights.md)")
    data: groups.Data = groups.Data()
    lengths: groups.Lengths = groups.Lengths()
    packing: groups.Packing = groups.Packing()
    image: groups.Image = groups.Image()
    model: groups.Model = groups.Model()
    objectives: groups.Objectives = groups.Objectives()
    task: Task = Task()
    optimizer: groups.Optimizer = groups.Optimizer()
    training: groups.Training = groups.Training()
    evaluation: groups.Evaluation = groups.Evaluation()
    mesh: groups.Mesh = groups.Mesh()
    distributed: groups.Distributed = groups.Distributed()
    debug: groups.Debug = groups.Debug()

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict | dict[str, Any]) -> Self:
        """Of a configuration; raises UserError where `parse` finds a mistake, by its key."""
        return parse(cls, config.to_dict() if hasattr(config, "to_dict") else config)

    def to_json(self) -> str:
        """The same as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)

    def resolved(self, *, vocabulary: int, classes: int) -> Self:
        """With the sizes that only the data set knows; raises UserError where they contradict."""
        sizes = (self.model.vocabulary, vocabulary), (self.image.classes, classes)
        for key, (chosen, found) in zip(("model.vocabulary", "image.classes"), sizes, strict=True):
            if chosen not in (0, found):
                raise UserError(f"{key} is {chosen}, but the data have {found}: leave {key} at 0")
        model = dataclasses.replace(self.model, vocabulary=vocabulary)
        image = dataclasses.replace(self.image, classes=classes)
        return dataclasses.replace(self, model=model, image=image).validate()

    @property
    def text_length(self) -> int:
        """T: tokens of a title, with those of the triples behind it where `knowledge_text`."""
        return self.lengths.title + self.model.knowledge_text * self.lengths.knowledge

    @property
    def region_outputs(self) -> int:
        """What MOM predicts of a region: C class logits, or F features."""
        kl = self.objectives.mom.variant == "kl"
        return self.image.classes if kl else self.image.input_dim

    def validate(self) -> Self:
        """Itself; raises UserError as `from_config`, of settings put together in Python."""
        return parse(type(self), dataclasses.asdict(self))

    def check_rules(self, key: str) -> None:
        """Raises UserError for the first contradiction, named by its keys."""
        data, training, model = self.data, self.training, self.model
        group, task = self.objectives.group, self.task.name
        if data.weights and len(data.weights) != len(data.sources):
            raise UserError("data.weights: one is expected for each of data.sources")
        if model.fusion.temperature_end > model.fusion.temperature_start:
            raise UserError("model.fusion.temperature_end is more than temperature_start")
        of = "training.accumulation x objectives.group ="
        check_multiple("training.batch", training.batch, of, training.accumulation * group)
        check_multiple("evaluation.batch", self.evaluation.batch, "objectives.group", group)
        longest = max(self.text_length, self.lengths.knowledge, self.lengths.candidate)
        if longest > model.positions:
            raise UserError(f"model.positions {model.positions} is less than lengths.* {longest}")
        if (rate := self.optimizer.imported_rate) != 1 and not self.init_from:
            raise UserError(f"optimizer.imported_rate is {rate}, but init_from names no weights")
        PRESETS[model.preset].validate(self)
        self.validate_shown()
        for name in ("mlm", "mom") if self.task.downstream else ():
            if getattr(self.objectives, name).rate:
                raise UserError(f"objectives.{name}.rate: {task} masks nothing, set it to 0")
        if task == "alignment":  # the two rows of a pair stand in one group
            check_multiple("objectives.group", group, "an alignment pair's rows,", 2)
        if task == "questions" and not self.objectives.lpm.negative_values:
            raise UserError("objectives.lpm.negative_values is 0: questions need false candidates")

    def validate_shown(self) -> None:
        """Raises UserError where the task shows a modality that there is not."""
        for key in ("shown", "first_shown", "second_shown"):
            for name in getattr(self.task, key):
                known = ("title", "image", "knowledge", *self.model.extra_modalities)
                check_choice(f"task.{key}", name, known)


def default_config() -> ml_collections.ConfigDict:
    """The defaults, for a configuration file to change: preset `paper` at the paper's size."""
    return ml_collections.ConfigDict(dataclasses.asdict(Settings()))
