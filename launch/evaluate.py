"""Measures a pretrained K3M on products held out and draws the course of its run.

  python -m launch.evaluate --workdir=runs/first [--checkpoint=best] [--split=valid]

Prints a table with the floor of each metric, and writes into the run's folder: evaluation.json,
evaluation.md (the same table) and curves.png (losses and rates of training and held-out products).
"""

import dataclasses
import json
import pathlib

from absl import app, flags

from k3m_jax.data.pipeline import open_inputs
from k3m_jax.evaluation.curves import draw_curves
from k3m_jax.evaluation.evaluator import make_evaluator
from k3m_jax.evaluation.report import Report
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import AXES, make_mesh
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.training.checkpoints import load_params, load_settings
from k3m_jax.training.metrics import METRICS, read_metrics
from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by held-out loss), latest, or a step")
SPLIT = flags.DEFINE_string("split", "", "split to measure; the run's data.valid_split if empty")
SOURCES = flags.DEFINE_list("sources", [], "shards to measure on; the run's data.sources if empty")
MESH = flags.DEFINE_list(
    "mesh", [], "sizes of the axes data,fsdp,tensor on this machine; the run's if empty"
)


def _settings(workdir: pathlib.Path, which: str | int) -> Settings:
    """The run's settings, with what the flags change."""
    settings = load_settings(workdir, which)
    data, mesh = settings.data, settings.mesh
    if SPLIT.value:
        data = dataclasses.replace(data, valid_split=SPLIT.value)
    if SOURCES.value:
        data = dataclasses.replace(data, sources=tuple(SOURCES.value), weights=())
    if MESH.value:
        try:
            mesh = Mesh(**dict(zip(AXES, map(int, MESH.value), strict=True)))
        except ValueError as error:
            raise UserError(f"--mesh={','.join(MESH.value)}: three numbers expected") from error
    return dataclasses.replace(settings, data=data, mesh=mesh)


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    workdir, which = pathlib.Path(WORKDIR.value), CHECKPOINT.value
    which = int(which) if which.isdecimal() else which
    settings = _settings(workdir, which)
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    mesh, network = make_mesh(settings.mesh), Network(settings)
    params, step = load_params(workdir, which, network, mesh)
    measured = make_evaluator(network, mesh, inputs).measure(params)
    report = Report.of(measured, step, settings.data.valid_split)
    (workdir / "evaluation.json").write_text(json.dumps(report.json(), indent=1) + "\n")
    (workdir / "evaluation.md").write_text(report.markdown(), encoding="utf-8")
    draw_curves(read_metrics(workdir / METRICS), workdir / "curves.png")
    print(report.text())
    print(f"\nwritten: evaluation.json, evaluation.md and curves.png in {workdir}")


if __name__ == "__main__":
    cli.run(main)
