"""Settings that contradict each other: each is an error that names its keys."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from k3m_jax.settings.schema import UserError, check_ranges

if TYPE_CHECKING:
    from k3m_jax.settings import Distributed, Settings


RELEASED_STRUCTURE = {
    "heads": 1,
    "activation": "before",
    "residual": "identity",
    "combine": "concat",
}


def validate(s: Settings) -> None:
    """Ranges first, so that the contradictions after them may divide."""
    check_ranges(s)
    for name, stack in (
        ("model.text", s.model.text),
        ("model.image", s.model.image),
        ("model.interactor", s.model.interactor),
    ):
        if stack.width % stack.heads:
            raise UserError(
                f"{name}.heads: {stack.heads} heads do not divide {name}.width {stack.width}"
            )
    if s.image.front_end == "patches" and s.image.grid**2 != s.image.regions:
        raise UserError(f"image.regions: {s.image.regions} patches are not a square grid")
    t, d = s.training, s.data
    if t.accumulation > t.batch:
        raise UserError(
            f"training.accumulation {t.accumulation} is more than training.batch {t.batch}"
        )
    if t.batch % (t.accumulation * s.objectives.group):
        raise UserError(
            f"training.batch {t.batch} is not a multiple of training.accumulation "
            f"{t.accumulation} x objectives.group {s.objectives.group}"
        )
    if s.evaluation.batch % s.objectives.group:
        raise UserError(
            f"evaluation.batch {s.evaluation.batch} is not a multiple of objectives.group "
            f"{s.objectives.group}"
        )
    if d.weights and len(d.weights) != len(d.sources):
        raise UserError(
            f"data.weights has {len(d.weights)} numbers for {len(d.sources)} data.sources"
        )
    if max(s.text_length, s.lengths.knowledge, s.lengths.candidate) > s.model.positions:
        raise UserError(f"model.positions {s.model.positions} is less than a text in lengths.*")
    if s.model.fusion.temperature_end > s.model.fusion.temperature_start:
        raise UserError(
            f"model.fusion.temperature_end {s.model.fusion.temperature_end} is more than "
            f"model.fusion.temperature_start {s.model.fusion.temperature_start}"
        )
    if s.optimizer.imported_rate != 1 and not s.init_from:
        raise UserError(
            f"optimizer.imported_rate is {s.optimizer.imported_rate}, but init_from names no "
            "weights: name some, or leave optimizer.imported_rate at 1"
        )
    if list(dataclasses.astuple(s.mesh)).count(-1) > 1:
        raise UserError("mesh: only one axis can be -1")
    _check_distributed(s.distributed)
    _check_preset(s)
    if s.task.downstream:
        _check_task(s)


def _check_distributed(d: Distributed) -> None:
    if d.coordinator in ("auto", "off"):
        if d.processes or d.process:
            raise UserError(
                f"distributed.coordinator is {d.coordinator}: distributed.processes and "
                "distributed.process are for HOST:PORT alone"
            )
        return
    host, _, port = d.coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(f"distributed.coordinator: {d.coordinator!r} is not auto, off or HOST:PORT")
    if d.process >= d.processes:
        raise UserError(
            f"distributed.process {d.process} is not one of distributed.processes {d.processes}, "
            "which count from 0"
        )


def _check_task(s: Settings) -> None:
    """Fine-tuning hides nothing but the answer."""
    for name in ("mlm", "mom"):
        if rate := getattr(s.objectives, name).rate:
            raise UserError(
                f"objectives.{name}.rate is {rate}: the task {s.task.name} masks nothing, "
                "set it to 0"
            )
    if s.task.name == "alignment" and s.objectives.group % 2:
        raise UserError(
            f"objectives.group {s.objectives.group}: the two rows of an alignment pair stand in "
            "one group, let it be even"
        )
    if s.task.name == "questions" and not s.objectives.lpm.negative_values:
        raise UserError("objectives.lpm.negative_values is 0: questions need false candidates")


def _check_preset(s: Settings) -> None:
    """The schedule, the structure aggregation and the widths are those of the preset."""
    if s.model.knowledge_text and s.model.preset in ("paper", "release"):
        raise UserError(
            f"model.knowledge_text: model.preset {s.model.preset!r} encodes triples by themselves, "
            "leave it at False"
        )
    widths = {s.model.text.width, s.model.image.width, s.model.interactor.width}
    if s.model.preset == "lxmert" and len(widths) > 1:
        raise UserError(
            "model.preset 'lxmert' has one width: set model.text.width, model.image.width and "
            "model.interactor.width to the same number"
        )
    blocks = s.model.interactor.blocks
    released = s.model.preset == "release"
    for key, schedule, layers in (
        ("model.interactor.text_layers", s.model.interactor.text_layers, s.model.text.layers),
        ("model.interactor.image_layers", s.model.interactor.image_layers, s.model.image.layers),
    ):
        if not released and schedule:
            raise UserError(f"{key}: the schedule is of model.preset 'release', leave it at ()")
        if released and len(schedule) != blocks:
            raise UserError(
                f"{key} has {len(schedule)} numbers for {blocks} model.interactor.blocks"
            )
        if list(schedule) != sorted(schedule) or max(schedule, default=0) > layers:
            raise UserError(f"{key}: {schedule} does not rise, or passes the {layers} layers")
    if not released:
        return
    if dataclasses.asdict(s.model.structure) != RELEASED_STRUCTURE:
        told = ", ".join(f"model.structure.{name}={v!r}" for name, v in RELEASED_STRUCTURE.items())
        raise UserError(f"model.preset 'release' has {told}")
    if s.model.text.width % s.model.interactor.heads:
        raise UserError(
            f"model.interactor.heads: {s.model.interactor.heads} heads do not divide model.text."
            f"width {s.model.text.width}, the width at which titles and knowledge interact"
        )
    if s.objectives.mom.variant != "kl":
        raise UserError("objectives.mom.variant: model.preset 'release' has 'kl' alone")
    if s.task.name == "questions":
        raise UserError("task.name: model.preset 'release' encodes no answers to questions")
