import contextlib
import copy
import dataclasses
import functools
import os
import signal
import types

import jax
import numpy as np
import pytest
from products import tokenizer
from random_batch import random_batch
from tiny import TINY, tiny_program

from k3m_jax.settings import UserError
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.loop import train
from k3m_jax.training.preemption import watch_signals
from k3m_jax.training.progress import MAX_REFUSALS, METRICS, TIMING, ProgressReporter, read_metrics

# Another mesh adds up in another order (see test_step.py).
ACROSS_MESHES = {"rtol": 2e-3, "atol": 1e-5}


class Batches:
    """A batch is a function of its step; `events` happen when a step asks for its batch."""

    def __init__(self, step, events=None):
        self._step, self._events = step, events or {}

    def __iter__(self):
        return self

    def __next__(self):
        self._events.get(self._step, lambda: None)()
        self._step += 1
        return random_batch(TINY, TINY.training.batch, seed=self._step)

    def close(self):
        pass


def evaluate(params):
    norm = float(np.linalg.norm(jax.device_get(params["text_encoder"]["words"])))
    return {"loss": norm, "link_mrr": None}


def run(folder, program=None, evaluate=evaluate, **events):
    """Trains in `folder`; `events` are of steps, as `at_3`."""
    at = {int(name.removeprefix("at_")): event for name, event in events.items()}
    return train_on(functools.partial(Batches, events=at), folder, program, evaluate)


def train_on(batches_from, folder, program=None, evaluate=evaluate):
    program = program or tiny_program()
    meta = Meta.of(program.network.settings, ["p"], "w")
    with contextlib.closing(Checkpoints(folder, meta, keep=1)) as checkpoints:
        return train(program, checkpoints, batches_from, evaluate, folder, tokenizer())


def last_state(folder):
    with contextlib.closing(Checkpoints(folder, Meta.of(TINY, ["p"], "w"), keep=1)) as checkpoints:
        return jax.device_get(checkpoints.restore(tiny_program().abstract_state))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder)
    return folder


def assert_same_run(folder, whole):
    assert (folder / METRICS).read_bytes() == (whole / METRICS).read_bytes()
    jax.tree.map(np.testing.assert_array_equal, last_state(folder), last_state(whole))


def test_every_step_and_evaluation_has_its_line(whole):
    lines = read_metrics(whole / METRICS)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 11))
    assert [line["step"] for line in lines if "valid/loss" in line] == [5, 10]
    assert lines[5]["valid/link_mrr"] is None
    timing = read_metrics(whole / TIMING)
    assert timing[-1]["timing/items_per_second"] > 0


def test_a_finished_run_stays_as_it_is(whole):
    before = (whole / METRICS).read_bytes()
    assert run(whole)
    assert (whole / METRICS).read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_it_saves_and_goes_on_exactly(whole, tmp_path, number):
    assert not run(tmp_path, at_2=lambda: os.kill(os.getpid(), number))
    assert last_state(tmp_path).step == 3
    # A signal before a step with an evaluation does not prevent it.
    assert not run(tmp_path, at_4=lambda: os.kill(os.getpid(), number))
    assert last_state(tmp_path).step == 5
    assert run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_signal_during_an_evaluation_stops_the_run_with_that_step(whole, tmp_path):
    def evaluate_with_signal(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(params)

    assert not run(tmp_path, evaluate=evaluate_with_signal)
    assert last_state(tmp_path).step == 5
    assert run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_after_a_crash_it_goes_on_from_the_last_checkpoint(whole, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, at_8=lambda: 1 / 0)
    assert read_metrics(tmp_path / METRICS)[-1]["step"] == 8
    assert run(tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_another_mesh_goes_on_alike(whole, tmp_path):
    assert not run(tmp_path, at_2=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path, tiny_program(TINY, 2, 2, 2))
    for line, expected in zip(
        read_metrics(tmp_path / METRICS), read_metrics(whole / METRICS), strict=True
    ):
        assert line.keys() == expected.keys()
        for key in ("train/loss", "train/gradient_norm", "valid/loss"):
            if key in line:
                np.testing.assert_allclose(line[key], expected[key], **ACROSS_MESHES)


def run_with_refused(folder, *steps):
    """Trains in `folder`; the batches of `steps`, from 1 on, are such that they are refused."""

    class Broken(Batches):
        def __next__(self):
            batch = super().__next__()
            if self._step in steps:
                batch["class_probs"][:] = np.inf
            return batch

    return train_on(Broken, folder)


def test_a_refused_step_is_reported(tmp_path, capsys):
    assert run_with_refused(tmp_path, 2)
    skipped = [x["train/skipped"] for x in read_metrics(tmp_path / METRICS) if "train/skipped" in x]
    assert skipped == [0, *[1] * 9]
    assert "step 2: loss" in capsys.readouterr().err


def test_steps_refused_in_a_row_end_the_run_and_what_is_saved_stays(monkeypatch, tmp_path):
    monkeypatch.setattr("k3m_jax.training.progress.MAX_REFUSALS", 3)
    with pytest.raises(UserError, match=r"3 steps in a row, up to step 8, .* debug\.nans=True"):
        run_with_refused(tmp_path, 1, 2, 4, 6, 7, 8)
    assert last_state(tmp_path).step == 5
    assert read_metrics(tmp_path / METRICS)[-1]["train/skipped"] == 6


@pytest.mark.parametrize("leads", [True, False])
def test_every_process_ends_after_so_many_refused_steps(monkeypatch, tmp_path, leads):
    monkeypatch.setattr("k3m_jax.parallel.distributed.is_lead_process", lambda: leads)
    numbers = {"loss": np.nan, "gradient_norm": np.nan}
    state = types.SimpleNamespace(step=0, skipped=0)
    with contextlib.closing(ProgressReporter(tiny_program(), tmp_path, state)) as report:
        for step in range(1, MAX_REFUSALS):
            report.dispatched(step, {**numbers, "skipped": step})
        report.dispatched(
            MAX_REFUSALS, {**numbers, "skipped": MAX_REFUSALS - 1}
        )  # one that is not refused
        for step in range(MAX_REFUSALS + 1, 2 * MAX_REFUSALS + 1):
            report.dispatched(step, {**numbers, "skipped": step - 1})
        with pytest.raises(UserError, match=f"in a row, up to step {2 * MAX_REFUSALS}"):
            report.pause()


@pytest.mark.parametrize("start", [3, 8])
def test_the_profiler_window_is_written(tmp_path, start):
    """Also a window that ends with the run."""
    training = dataclasses.replace(TINY.training, profile_start=start, profile_steps=2)
    program = tiny_program()
    settings = dataclasses.replace(TINY, training=training)
    profiled = copy.copy(program)
    profiled.network = types.SimpleNamespace(settings=settings)
    assert run(tmp_path, profiled)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it: a shell that starts the tests in the background turns it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_what_it_always_does(interruptible):
    with watch_signals() as should_stop:
        assert not should_stop(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
