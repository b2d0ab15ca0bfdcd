"""Measures a run, pretrained or fine-tuned, on products held out, and draws its course.

  python -m launch.evaluate --workdir=runs/first [--checkpoint=best] [--split=valid]
  python -m launch.evaluate --workdir=runs/first --corruption=TNR80

Prints a table with the floor of each metric, and writes into the run's folder, for a split called
valid: evaluation-valid.json, evaluation-valid.md (the same table) and curves.png (losses and rates
of training and held-out products). The second form spoils 80 % of the titles first, and names its
files evaluation-valid-TNR80 (docs/robustness.md). A fine-tuned run is measured on its task, in
evaluation-questions-test.json (docs/tasks.md). --sources=FOLDER measures on other products, shards
or a folder with a products.jsonl as it comes; a digest of them ends the files' names. What the run
learned from must be there, too, or named by --trained_on. Several processes: docs/distributed.md.
"""

import dataclasses

from absl import app, flags
from etils import epath
from ml_collections import config_flags

from k3m_jax.evaluation.curves import draw_curves
from k3m_jax.parallel import distributed
from k3m_jax.runs.measure import measure_run, relocate_data
from k3m_jax.settings import Corruption, Mesh, Settings, default_config
from k3m_jax.training.checkpoints import Meta, load_meta
from k3m_jax.training.metric_writer import METRICS, read_metrics
from launch import cli

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by held-out loss), latest, or a step")
SPLIT = flags.DEFINE_string(
    "split",
    "",
    "split to measure; the run's data.valid_split if empty, where alignment's F1 is flattered: its "
    "threshold is chosen there",
)
SOURCES = flags.DEFINE_list("sources", [], "shards, or folders of products; the run's if empty")
CORRUPTION = flags.DEFINE_string(
    "corruption",
    "",
    "clean, or TMR, IMR, MMR, TNR, INR, … and per cent: TNR80; the run's own if empty",
)
TRAINED_ON = flags.DEFINE_list("trained_on", [], "the shards the run learned from, if moved")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "folder of the run's tokenizer, if it has moved")
MESH = flags.DEFINE_list("mesh", [], "sizes of the axes data,fsdp,tensor; the run's if empty")
DISTRIBUTED = config_flags.DEFINE_config_dict("distributed", default_config().distributed)


def adapted(meta: Meta) -> Settings:
    """A run's settings, with what the flags change but the sources."""
    settings = Settings.from_config(meta.settings)
    data = relocate_data(settings.data, meta, TRAINED_ON.value, TOKENIZER.value)
    corrupt = Corruption.parse(CORRUPTION.value) if CORRUPTION.value else data.valid_corruption
    data = dataclasses.replace(
        data, valid_split=SPLIT.value or data.valid_split, valid_corruption=corrupt
    )
    mesh = Mesh.parse(MESH.value) if MESH.value else settings.mesh
    return dataclasses.replace(settings, data=data, mesh=mesh)


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    workdir, which = epath.Path(WORKDIR.value), cli.checkpoint(CHECKPOINT)
    with distributed.initialize(cli.read_distributed(DISTRIBUTED)):
        meta = load_meta(workdir, which)
        report = measure_run(adapted(meta), meta, workdir, which, SOURCES.value)
        if distributed.is_lead_process():
            written = report.write(workdir)
            draw_curves(read_metrics(workdir / METRICS), workdir / "curves.png")
            print(f"{report.text()}\n\nwritten: {', '.join(written)}, curves.png in {workdir}")


if __name__ == "__main__":
    cli.run(main)
