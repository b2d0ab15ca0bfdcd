"""Measures a run, pretrained or fine-tuned, on held-out products, and draws its curves.

  python -m launch.evaluate --workdir=runs/first [--checkpoint=best] [--split=valid]
  python -m launch.evaluate --workdir=runs/first --corruption=TNR80

Writes evaluation-SPLIT.json and .md, the printed table, and curves.png into the run's folder; of a
pretrained run also stability-SPLIT, and with 80 % of the titles corrupted evaluation-SPLIT-TNR80
alone (docs/robustness.md); of a fine-tuned run, evaluation-TASK-SPLIT (docs/tasks.md); on other
products, a digest of them ends the names. What the run was trained on must be there, too. Several
processes: docs/distributed.md.
"""

import dataclasses

from etils import epath

from k3m_jax.evaluation.curves import draw_curves
from k3m_jax.parallel import distributed
from k3m_jax.runs.measure import measure_run, relocate_data
from k3m_jax.settings import Corruption, Settings
from k3m_jax.settings.schema import option
from k3m_jax.training.checkpoints import load_meta
from k3m_jax.training.progress import METRICS, read_metrics
from launch import cli, run_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(run_flags.RunFlags):
    """Flags of the command."""

    split: str = option("", "data.valid_split if empty: alignment's threshold is chosen there")
    corruption: str = option("", "clean, or as TNR80; the run's own if empty")
    mesh: tuple[str, ...] = option((), "sizes of the axes data,fsdp,tensor; the run's if empty")


def main(flags: Flags) -> None:
    """Measures, prints and writes."""
    workdir, which = epath.Path(flags.workdir), run_flags.checkpoint(flags.checkpoint)
    with distributed.initialize(flags.distributed):
        meta = load_meta(workdir, which)
        run = Settings.from_config(meta.settings)
        data = relocate_data(run.data, meta, flags.trained_on, flags.tokenizer)
        split, corrupt = flags.split or data.valid_split, data.valid_corruption
        corrupt = Corruption.parse(flags.corruption) if flags.corruption else corrupt
        mesh = run_flags.mesh(flags.mesh) if flags.mesh else run.mesh
        settings = dataclasses.replace(run, data=data, mesh=mesh)
        how = {"split": split, "corruptions": [corrupt], "sources": flags.sources}
        others = ["curves.png"]
        for report in measure_run(settings, meta, workdir, which, **how):
            if distributed.is_lead_process():
                if others:
                    draw_curves({"": read_metrics(workdir / METRICS)}, workdir / "curves.png")
                run_flags.write_report(report, workdir, *others)
                others = []


if __name__ == "__main__":
    cli.run(main)
