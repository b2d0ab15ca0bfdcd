"""A few steps of a run of several processes, down to the bits; runs as one of them by itself.

    python -m tests.joint TASK HOST:PORT PROCESSES PROCESS MESH STEPS WORKDIR [TIMEOUT]

TASK is look, run or stop, MESH is data,fsdp,tensor. The leading process leaves in WORKDIR/found.npz
what the task returned.

`run` takes one device of each process in turn, so that the rows of a process with several lie apart
in the batch, as they do on a torus.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from k3m_jax.data.input.batch import Batch
from k3m_jax.data.input.pipeline import HostRows, train_batches
from k3m_jax.model.network import Network
from k3m_jax.parallel import distributed
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.placement import place_batch, process_blocks
from k3m_jax.parallel.shardings import replicated
from k3m_jax.settings import Distributed, Encoder, Interactor, Mesh, Settings, Training
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.preemption import watch_signals
from k3m_jax.training.trainer import Trainer
from tests.products import inputs, memory_shards, products, settings_for
from tests.tiny import TINY

FOUND = "found.npz"
BEGUN = "begun"  # is there when a step of `look` is done
STOP_STEPS = 200  # steps of `stop`


@functools.cache
def given():
    return inputs(memory_shards(products(40)))


@functools.cache
def settings(steps: int = 6) -> Settings:
    """One layer of everything: a process has a step of its own to compile."""
    layer = Encoder(layers=1, width=32, heads=4, mlp=64)
    model = dataclasses.replace(
        TINY.model,
        text=layer,
        image=layer,
        interactor=Interactor(blocks=1, width=32, heads=4, image_mlp=64, text_mlp=64),
    )
    chosen = settings_for(given(), model=model, training=Training(steps=steps, batch=16))
    # Rows that no token uses, so that a tensor axis of two divides the table whatever its size.
    even = dataclasses.replace(chosen.model, vocabulary=chosen.model.vocabulary // 2 * 2 + 2)
    return dataclasses.replace(chosen, model=even)


@contextlib.contextmanager
def batches_from(
    step: int, settings: Settings, mesh: jax.sharding.Mesh
) -> Iterator[Iterator[Batch]]:
    rows = HostRows(*process_blocks(mesh))
    batches = train_batches(settings, given(), start_step=step, rows=rows)
    with contextlib.closing(batches):
        yield batches


@functools.cache
def program_on(mesh: Mesh) -> Trainer:
    """The settings' program on devices of each process in turn; compiled once."""
    around = np.reshape(jax.devices(), (jax.process_count(), -1)).T.ravel()
    return Trainer(Network(settings()), make_mesh(mesh, around))


@functools.cache
def on_all(mesh: jax.sharding.Mesh):
    """Puts arrays on every device whole; compiled once for arrays of the same shapes."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def gathered(mesh: jax.sharding.Mesh, tree):
    """Everything of all processes, as NumPy."""
    return jax.device_get(on_all(mesh)(tree))


def digest(mesh: jax.sharding.Mesh, batch: Mapping[str, jax.Array]) -> str:
    arrays = gathered(mesh, batch)
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def look(mesh: Mesh, steps: int, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Digests of the whole batches, and a sum over each that goes through all devices."""
    mesh = make_mesh(mesh)
    total = jax.jit(lambda batch: batch["region_inputs"].astype(float).mean())
    digests, means = [], []
    with batches_from(0, settings(steps), mesh) as batches:
        for step in range(steps):
            distributed.heartbeat(f"step {step}")
            batch = place_batch(mesh, next(batches))
            digests.append(digest(mesh, batch))
            means.append(float(total(batch)))
            (workdir / BEGUN).touch()
    return {"batches": np.array(digests), "means": np.array(means)}


def run(mesh: Mesh, steps: int, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Goes on for `steps` steps from the folder's newest checkpoint, and leaves another.

    Returns the `blocks` of rows that this process read, the step that it `first` took, parameters
    and optimizer's state when it had `begun` and `ended`, each in one line, digests of the whole
    `batches`, and the `losses` and norms.
    """
    program = program_on(mesh)
    mesh, network = program.mesh, program.network

    def line(state):
        leaves = jax.tree.leaves(gathered(mesh, (state.params, state.opt_state)))
        return np.concatenate([np.ravel(leaf).astype(np.float32) for leaf in leaves])

    meta = Meta.of(network.settings, ["products"], "words")
    digests, losses = [], []
    with contextlib.closing(Checkpoints(workdir, meta, keep=9)) as checkpoints:
        state = checkpoints.restore(program.abstract_state) or program.init()
        first, begun = int(state.step), line(state)
        with batches_from(first, network.settings, mesh) as batches:
            for _ in range(steps):
                batch = program.place(next(batches))
                digests.append(digest(mesh, batch))
                state, metrics = program.step(state, batch)
                losses.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
            if steps:
                checkpoints.save(first + steps, state)
    return {
        "blocks": np.array(process_blocks(mesh)[0]),
        "first": np.array(first),
        "begun": begun,
        "batches": np.array(digests),
        "losses": np.array(losses),
        "ended": line(state),
    }


def stop(mesh: Mesh, steps: int, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """The step at which each process has `stopped`, of a run that goes on from step `steps`.

    One process gets the signal before any has checked, as while they restore. Where nothing
    stops them it is the last of `STOP_STEPS` steps.
    """
    with watch_signals() as should_stop:
        if jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # jax looks for signals once a second
        for step in range(steps, steps + STOP_STEPS):
            if should_stop(step):
                break
            time.sleep(0.1)
    return {"stopped": multihost_utils.process_allgather(np.array(step))}


def main() -> None:
    task, address, processes, process, mesh, steps, workdir, *timeout = sys.argv[1:]
    timeout = int(timeout[0]) if timeout else Distributed.timeout
    settings = Distributed(address, int(processes), int(process), timeout)
    with distributed.initialize(settings, saves=task == "stop"):
        workdir = pathlib.Path(workdir)
        sizes = Mesh(*map(int, mesh.split(",")))
        found = {"look": look, "run": run, "stop": stop}[task](sizes, int(steps), workdir)
        if distributed.is_lead_process():
            np.savez(workdir / FOUND, **found)


if __name__ == "__main__":
    main()
