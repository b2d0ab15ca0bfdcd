"""Measures what a small head can read off a run's embeddings, on the downstream tasks.

  python -m launch.probe --workdir=RUN --task=classification,alignment,questions [--split=test]
  python -m launch.probe --workdir=RUN --task=questions --corruption=clean,TMR100,TNR100

Writes probe-classification-test.json and .md (with a corruption, probe-questions-test-TMR100) into
the run's folder. `--options.KEY=VALUE` changes what a task shows and hides, the settings `task.*`;
docs/tasks.md tells all of it.
"""

import dataclasses
import time

from absl import app, flags
from etils import epath
from ml_collections import config_flags

from k3m_jax.evaluation.report import ExternalDataInfo
from k3m_jax.parallel import distributed
from k3m_jax.runs.adhoc_datasets import open_sources
from k3m_jax.runs.measure import embedder_of, open_run_data, relocate_data
from k3m_jax.runs.probe import probe
from k3m_jax.settings import Corruption, Settings, Task, UserError, default_config
from k3m_jax.settings.schema import parse
from k3m_jax.training.checkpoints import load_meta
from launch import cli

TASKS = ("classification", "alignment", "questions")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
TASK = flags.DEFINE_list("task", None, f"of {', '.join(TASKS)}", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by held-out loss), latest, or a step")
SPLIT = flags.DEFINE_string("split", "test", "split to measure")
CORRUPTION = flags.DEFINE_list("corruption", ["clean"], "of the split: clean, TNR80, …")
TRAIN_CORRUPTION = flags.DEFINE_string("train_corruption", "clean", "of the head's training items")
SOURCES = flags.DEFINE_list("sources", [], "shards, or folders of products; the run's if empty")
TRAINED_ON = flags.DEFINE_list("trained_on", [], "the shards the run learned from, if moved")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "folder of the run's tokenizer, if it has moved")
OPTIONS = config_flags.DEFINE_config_dict("options", default_config().task)
DISTRIBUTED = config_flags.DEFINE_config_dict("distributed", default_config().distributed)


def main(argv: list[str]) -> None:
    """Probes, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    workdir, which = epath.Path(WORKDIR.value), cli.checkpoint(CHECKPOINT)
    for name in TASK.value:
        if name not in TASKS:
            raise UserError(f"--task={name}: not one of {', '.join(TASKS)}")
    corrupt = list(map(Corruption.parse, CORRUPTION.value))
    trained = Corruption.parse(TRAIN_CORRUPTION.value)
    with distributed.initialize(cli.read_distributed(DISTRIBUTED)):
        meta = load_meta(workdir, which)
        run = Settings.from_config(meta.settings)
        inputs = open_run_data(
            relocate_data(run.data, meta, TRAINED_ON.value, TOKENIZER.value), meta, workdir
        )
        settings, embedder, step = embedder_of(run, inputs, workdir, which)
        how = {"split": SPLIT.value, "corruptions": corrupt, "train_corruption": trained}
        how["held_out"] = open_sources(SOURCES.value, inputs.shard_sets[0], workdir)
        where = ExternalDataInfo.of(SOURCES.value, how["held_out"])
        for name in TASK.value:
            task = parse(Task, {**OPTIONS.value.to_dict(), "name": name}, "task")
            chosen = dataclasses.replace(settings, task=task)
            begun = time.monotonic()
            for report in probe(chosen, inputs, embedder, step, **how):
                report = dataclasses.replace(report, elsewhere=where)
                if distributed.is_lead_process():
                    written = ", ".join(report.write(workdir))
                    taken = f"{time.monotonic() - begun:.0f} s"
                    print(f"{report.text()}\n\n{taken}; {written} in {workdir}\n", flush=True)


if __name__ == "__main__":
    cli.run(main)
