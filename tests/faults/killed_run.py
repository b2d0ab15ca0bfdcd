"""A tiny run in a process of its own, for `test_kills`."""

import contextlib
import dataclasses
import pathlib
import sys

import jax
import numpy as np
from safetensors.numpy import save_file

from k3m_jax.data.store import lock
from k3m_jax.model.network import flat
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.loop import train
from tests import conftest  # noqa: F401  (first: the devices and the compilation cache)
from tests.products import tokenizer
from tests.random_batch import random_batch
from tests.tiny import TINY, tiny_program, tiny_settings

RESULT = "final.safetensors"


def main(folder: pathlib.Path, steps: int) -> None:
    rhythm = {"steps": steps, "checkpoint_every": 2, "eval_every": 4}
    settings = tiny_settings(training=dataclasses.replace(TINY.training, **rhythm))
    program, meta = tiny_program(settings), Meta.of(settings, ["p"], "w")

    class Batches:
        def __init__(self, step):
            self.step = step

        def __iter__(self):
            return self

        def __next__(self):
            self.step += 1
            return random_batch(settings, settings.training.batch, seed=self.step)

        def close(self):
            pass

    def evaluate(params):
        return {"loss": float(np.linalg.norm(jax.device_get(params["text_encoder"]["words"])))}

    with (
        lock.hold(folder / "run.lock", "--workdir"),
        contextlib.closing(Checkpoints(folder, meta, keep=2)) as checkpoints,
    ):
        assert train(program, checkpoints, Batches, evaluate, folder, tokenizer())
        state = checkpoints.restore(program.abstract_state)
    save_file(flat(jax.device_get(state.params)), folder / RESULT)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
