"""Answers about a dump of products, by an exported model: classes, values, same products.

  python -m launch.predict --model=FOLDER --format=jsonl --input=DUMP --output=DIR
  … --properties=colour,brand --missing   the values of two properties, where a product lacks them
  … --pairs=pairs.jsonl                   whether the items of each pair are one product

What is answered follows from the head that was exported with the model; --task=questions also does
with a model that has learned link prediction. Parts and resumption are as with launch.embed.
"""

import dataclasses
import functools
from typing import Literal

from k3m_jax import tasks
from k3m_jax.serving import predict
from k3m_jax.serving.bulk import SUFFIXES
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import PositiveInt, option
from launch import cli, dump_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(dump_flags.DumpFlags):
    """Flags of the command."""

    task: Literal["", *tasks.REGISTRY] = option("", "the head's if empty")
    k: PositiveInt = option(5, "how many classes or values, the best first")
    properties: tuple[str, ...] = option((), "to fill in; all that have values if empty")
    missing: bool = option(False, "only properties that a product lacks")
    pairs: str = option("", "JSON lines with a and b, ids of the dump, for --task=alignment")
    files: Literal[*SUFFIXES] = option("jsonl", "what is written")


def main(flags: Flags) -> None:
    """Predicts, writes and reports."""
    model = dump_flags.open_model(flags)
    task = flags.task or (model.head.task.name if model.head else "questions")
    if (task == "alignment") != bool(flags.pairs):
        raise UserError("--pairs and --task=alignment go together: give both")
    if task == "questions":
        model.completion.check(flags.properties)
    else:
        model.require_head(task)
    chosen = {"properties": flags.properties, "missing": flags.missing}
    how = {"task": task, "k": flags.k, **chosen}
    job = dump_flags.job(flags, model, "answers", how, suffix=flags.files)
    if task == "alignment":
        pairs = predict.read_candidates(flags.pairs)
        print(predict.predict_pairs(job, model, pairs))
    elif task == "classification":
        print(job.write(functools.partial(predict.class_table, model, k=flags.k)))
    else:
        print(job.write(functools.partial(predict.value_table, model, k=flags.k, **chosen)))


if __name__ == "__main__":
    cli.run(main)
