"""Measures what a small head can read off a run's embeddings, on the downstream tasks.

  python -m launch.probe --workdir=RUN --task=questions [--split=test --corruption=clean,TMR100]
  python -m launch.probe --workdir=RUN --tasks=configs/tasks_shop.py:WORDS [--task=classes,colour]

Writes probe-TASK-SPLIT.json and .md (docs/tasks.md), with a corruption probe-TASK-SPLIT-TMR100.
"""

import dataclasses

import ml_collections
from etils import epath

from k3m_jax import tasks
from k3m_jax.parallel import distributed
from k3m_jax.runs.measure import measure_run, relocate_data
from k3m_jax.settings import Corruption, Settings, Task
from k3m_jax.settings.schema import option
from k3m_jax.training.checkpoints import load_meta
from launch import cli, run_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(run_flags.RunFlags):
    """Flags of the command."""

    task: tuple[str, ...] = option((), f"{', '.join(tasks.REGISTRY)}, or names of --tasks")
    tasks: ml_collections.ConfigDict = option(None, "a file of tasks by name, all if no --task is")
    split: str = option("test", "split to measure")
    corruption: tuple[str, ...] = option(("clean",), "of the split: clean, TNR80, …")
    train_corruption: str = option("clean", "of the head's training items")
    classical: bool = option(False, "classification: also SVM on text, 5 nearest pictures, both")
    options: Task = option(Task(), "what tasks without a file show and hide")


def main(flags: Flags) -> None:
    """Probes, prints and writes."""
    workdir, which = epath.Path(flags.workdir), run_flags.checkpoint(flags.checkpoint)
    corrupt, *corruptions = map(Corruption.parse, (flags.train_corruption, *flags.corruption))
    file = flags.tasks.to_dict() if flags.tasks is not None else None
    probes = tasks.choose(flags.task, flags.options, file)
    how = {"split": flags.split, "corruptions": corruptions, "sources": flags.sources}
    how["classical"] = flags.classical
    with distributed.initialize(flags.distributed):
        meta = load_meta(workdir, which)
        run = Settings.from_config(meta.settings)
        data = relocate_data(run.data, meta, flags.trained_on, flags.tokenizer)
        run = dataclasses.replace(run, data=dataclasses.replace(data, train_corruption=corrupt))
        for report in measure_run(run, meta, workdir, which, probes=probes, **how):
            if distributed.is_lead_process():
                run_flags.write_report(report, workdir)


if __name__ == "__main__":
    cli.run(main)
