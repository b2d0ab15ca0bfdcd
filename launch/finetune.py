"""Fine-tunes a pretrained run on a downstream task; the same command resumes one that was stopped.

  python -m launch.finetune --config=configs/finetune_classification.py --workdir=runs/classes \\
      --config.init_from=runs/first [--config.data.sources=FOLDER …]

Sizes of the model and, if none are named, products and vocabulary are those of the run that
`init_from` names. configs/finetune_alignment.py and finetune_questions.py (question answering, and
completion of a property's values) are the other tasks (docs/tasks.md). All else, the exit codes
too, is as with launch.pretrain.
"""

from k3m_jax.settings import UserError
from launch import cli, pretrain


def main(flags: pretrain.Flags) -> int | None:
    """Fine-tunes."""
    if not flags.config.task.downstream:
        raise UserError("task.name is pretraining: take a configs/finetune_….py or launch.pretrain")
    return pretrain.main(flags)


if __name__ == "__main__":
    cli.run(main)
