"""The training loop."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from etils import epath

from k3m_jax.data.input.batch import Batch
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.model.network import Params
from k3m_jax.parallel import distributed
from k3m_jax.settings import Training
from k3m_jax.training.checkpoints import Checkpoints
from k3m_jax.training.initialization import init_or_restore
from k3m_jax.training.preemption import watch_signals
from k3m_jax.training.profiling import ProfilerWindow
from k3m_jax.training.progress import ProgressReporter
from k3m_jax.training.trainer import Trainer

Evaluate = Callable[[Params], Mapping[str, float | None]]


class Batches(Protocol, Iterator[Batch]):
    """This process' rows of the batches from one step on."""

    @property
    def state(self) -> Mapping[str, int]:
        """Where the input stands."""

    def close(self) -> None:
        """Ends what prepares batches ahead."""


def train(
    program: Trainer,
    checkpoints: Checkpoints,
    batches_from: Callable[[int], Batches],
    evaluate: Evaluate,
    workdir: epath.PathLike,
    tokenizer: Tokenizer,
) -> bool:
    """Trains to the last step, from where `starting.first_state` says.

    Whatever happens at a step depends on the step alone, so that a run that was stopped anywhere
    and started again writes the same numbers as one that never stopped.

    Args:
      program: what runs on the devices.
      checkpoints: where the state is kept.
      batches_from: step -> the batches from that step on.
      evaluate: parameters -> held-out numbers; their `loss` says which checkpoint is best.
      workdir: of metrics, events and profile.
      tokenizer: of the run, which that of `init_from` must agree with.

    Returns:
      False where the run was told to stop before the last step; its state is saved.

    Raises:
      UserError: what `starting.first_state` and `reporting.Reporter` raise.
    """
    training = program.network.settings.training
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(watch_signals())
        distributed.heartbeat("the newest checkpoint, which it restores")
        state = init_or_restore(program, checkpoints, tokenizer)
        step = int(state.step)
        stop = preemption.should_stop(step)
        report = stack.enter_context(contextlib.closing(ProgressReporter(program, workdir, state)))
        profiler = stack.enter_context(contextlib.closing(ProfilerWindow(training, workdir)))
        batches = stack.enter_context(contextlib.closing(batches_from(step)))
        stack.enter_context(distributed.abort_together())
        while step < training.steps and not stop:
            distributed.heartbeat(f"the batch of step {step + 1}")
            with report.stopwatch.waiting():
                batch = program.place(next(batches))
            profiler.before(step)
            distributed.heartbeat(f"step {step + 1}")
            state, metrics = program.step(state, batch)
            profiler.after(step, metrics["loss"])
            step += 1
            report.dispatched(step, metrics)
            stop = preemption.should_stop(step)
            evaluation_due = _due(step, training, training.eval_every)
            if evaluation_due or stop or _due(step, training, training.checkpoint_every):
                report.pause()  # what a checkpoint has seen must be written before it stands
                loss = report.held_out(step, evaluate(state.params)) if evaluation_due else None
                distributed.heartbeat(f"the checkpoint of step {step}")
                checkpoints.save(step, state, batches.state, loss)
                # Told meanwhile: this step is saved, no other is needed.
                stop = preemption.should_stop(step)
        distributed.heartbeat("the last checkpoint")
        checkpoints.wait()
    return step == training.steps


def _due(step: int, training: Training, every: int) -> bool:
    return step == training.steps or (every > 0 and step % every == 0)
