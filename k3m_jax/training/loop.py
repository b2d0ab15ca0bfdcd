"""The training loop: what a run starts from, its steps, and requests to stop it."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from k3m_jax.data.input.batch import Batch
from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.data.store.remote import LocalFolder
from k3m_jax.model.network import Network, Params, flat, network_of
from k3m_jax.parallel import distributed
from k3m_jax.pretrained.weights_file import WEIGHTS, fit, read_weights
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import FOLDER, Checkpoints, load_meta, load_params
from k3m_jax.training.progress import ProgressReporter
from k3m_jax.training.step import State
from k3m_jax.training.trainer import Trainer

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to go on
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
        report = stack.enter_context(contextlib.closing(ProgressReporter(trainer, workdir, state)))
        profile = stack.enter_context(contextlib.ExitStack())
        profile_from = max(training.profile_start, step)
        profile_until = training.profile_start + training.profile_steps
        batches = stack.enter_context(contextlib.closing(batches_from(step)))
        stack.enter_context(distributed.abort_together())
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
            stop = should_stop(step)
            evaluation_due = due(training.eval_every)
            if evaluation_due or stop or due(training.checkpoint_every):
                report.pause()  # a checkpoint's metrics must be on disk before it is
                measured = evaluate(state.params) if evaluation_due else {}
                if evaluation_due:
                    report.held_out(step, measured)
                distributed.heartbeat(f"the checkpoint of step {step}")
                checkpoints.save(step, state, measured.get("loss"))
                # A signal that came meanwhile needs no other checkpoint than this one.
                stop = should_stop(step)
        distributed.heartbeat("the last checkpoint")
        checkpoints.wait()
    return step == training.steps


def init_or_restore(trainer: Trainer, checkpoints: Checkpoints, tokenizer: Tokenizer) -> State:
    """The newest checkpoint, else parameters of `init_from` where it has them, else of the seed.

    Raises UserError: the checkpoints are of another run, or what `read_init_from` raises.
    """
    if state := checkpoints.restore(trainer.abstract_state):
        return state
    if not (folder := trainer.network.settings.init_from):
        return trainer.init()
    arrays, origin = read_init_from(folder, trainer.network, tokenizer, trainer.mesh)
    if distributed.is_lead_process():
        print(f"starting from {folder}: {len(arrays)} parameters", flush=True)
    checkpoints.record_init_source(origin)
    return trainer.init(arrays)


def read_init_from(
    folder: epath.PathLike, network: Network, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a folder of `launch.import_weights` or `launch.export`, or of a run's best.

    Returns them in the model's shapes and dtypes by name, and what a run's meta says of their
    origin. Raises UserError: no such folder, another vocabulary, or weights of another model.
    """
    folder = epath.Path(folder)
    path, of_run = folder / WEIGHTS, (folder / FOLDER).exists()
    try:
        if of_run:
            meta = load_meta(folder)
            different = "another fingerprint" * (meta.vocabulary != tokenizer.fingerprint)
        elif path.exists():
            different = holds_tokenizer(folder) and tokenizer.difference(Tokenizer.load(folder))
        else:
            wanted = "name a folder of launch.import_weights or launch.export, or a --workdir"
            raise UserError(f"{folder} has neither {WEIGHTS} nor {FOLDER}: {wanted}")
        if different:
            kept = "the folder kept with its shards" if of_run else folder
            reason = f"the vocabulary of {folder} is not the run's ({different})"
            raise UserError(f"{reason}: set --config.data.tokenizer={kept}")
        if of_run:
            other = network_of(Settings.from_config(meta.settings))
            params, step = load_params(folder, "best", other, mesh)
            weights, origin = flat(params), {"step": step}
        else:
            weights, origin = read_weights(path)
        if not (weights and origin):
            raise UserError(f"{path} is not of this library: python -m launch.import_weights")
        arrays = flat(fit(weights, network, folder, whole=False))
    except UserError as error:
        raise UserError(f"init_from: {error}") from error
    return arrays, {"folder": str(folder), "parameters": len(arrays), **origin}


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[int], bool]]:
    """Yields `should_stop(step)`, to be called after each step: does the run stop after it?

    A first SIGTERM or SIGINT is only noted; a second one does what it always does. Of several
    processes all stop after the same step; their first calls must be of the same step.
    """
    requested, first_step, several = False, None, jax.process_count() > 1
    # Of several processes, jax's preemption service notes SIGTERM, any number of them.
    numbers = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _) -> None:
        nonlocal requested
        signal.signal(number, before[number])
        requested = True
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def should_stop(step: int) -> bool:
        nonlocal first_step
        if not several:
            return requested
        first_step = step if first_step is None else first_step
        # The service takes a process that has not called yet to be at step 0: on an early request
        # all stop at 1, so the first call must say 1, wherever the run resumes from.
        return multihost_utils.reached_preemption_sync_point(step - first_step + 1)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield should_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
