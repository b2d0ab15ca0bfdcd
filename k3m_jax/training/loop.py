"""The training loop."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import jax
from etils import epath

from k3m_jax.data.input.batch import Batch
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.remote import LocalFolder
from k3m_jax.model.network import Params
from k3m_jax.parallel import distributed
from k3m_jax.training.checkpoints import Checkpoints
from k3m_jax.training.preemption import watch_signals
from k3m_jax.training.progress import ProgressReporter
from k3m_jax.training.starting import init_or_restore
from k3m_jax.training.trainer import Trainer

Evaluate = Callable[[Params], Mapping[str, float | None]]


def train(
    trainer: Trainer,
    checkpoints: Checkpoints,
    batches_from: Callable[[int], Iterator[Batch]],
    evaluate: Evaluate,
    workdir: epath.PathLike,
    tokenizer: Tokenizer,
) -> bool:
    """Trains to the last step, starting as `init_or_restore` says; False if a signal stopped it.

    Whatever happens at a step depends on the step alone, so that a run that was stopped anywhere
    and started again writes the same numbers as one that never stopped.

    `batches_from(step)`, which has a `close`, gives this process' rows of the batches from that
    step on. `evaluate` gives held-out numbers, whose `loss` decides which checkpoint is best.
    Raises UserError as `init_or_restore` and `ProgressReporter` do.
    """
    training = trainer.network.settings.training

    def due(every: int) -> bool:
        return step == training.steps or (every > 0 and step % every == 0)

    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(watch_signals())
        distributed.heartbeat("the newest checkpoint, which it restores")
        state = init_or_restore(trainer, checkpoints, tokenizer)
        step = int(state.step)
        stop = should_stop(step)
        # A run that was stopped between a checkpoint and its evaluation still owes this one.
        owed = step > 0 and due(training.eval_every) and not checkpoints.is_measured(step)
        reporter = ProgressReporter(trainer, workdir, state, measured=not owed)
        report = stack.enter_context(contextlib.closing(reporter))

        def measure() -> None:
            measured = evaluate(state.params)
            report.held_out(step, measured)
            checkpoints.record_loss(step, measured.get("loss"))

        profile = stack.enter_context(contextlib.ExitStack())
        profile_from = max(training.profile_start, step)
        profile_until = training.profile_start + training.profile_steps
        batches = stack.enter_context(contextlib.closing(batches_from(step)))
        stack.enter_context(distributed.abort_together())
        if owed and not stop:
            measure()
            owed, stop = False, should_stop(step)
        while step < training.steps and not stop:
            distributed.heartbeat(f"the batch of step {step + 1}")
            with report.stopwatch.waiting():
                batch = trainer.place(next(batches))
            if step == profile_from < profile_until and distributed.is_lead_process():
                folder = LocalFolder(epath.Path(workdir) / "profile")
                profile.callback(folder.close)
                profile.enter_context(jax.profiler.trace(folder.path))
            distributed.heartbeat(f"step {step + 1}")
            state, metrics = trainer.step(state, batch)
            step += 1
            if step == profile_until:
                jax.block_until_ready(metrics)
                profile.close()
            report.dispatched(step, metrics)
            stop, owed = should_stop(step), due(training.eval_every)
            if owed or stop or due(training.checkpoint_every):
                report.pause()  # a checkpoint's metrics must be on disk before it is
                distributed.heartbeat(f"the checkpoint of step {step}")
                checkpoints.save(step, state)
                # The step is safe before anything can go wrong with measuring it.
                if owed and not stop:
                    measure()
                    owed = False
                # A signal that came meanwhile needs no other checkpoint than this one.
                stop = should_stop(step)
        distributed.heartbeat("the last checkpoint")
        checkpoints.wait()
    return step == training.steps and not owed
