import dataclasses

import jax
import pytest
from random_batch import random_batch
from tiny import TINY, tiny_settings

from k3m_jax import settings as s
from k3m_jax.reproductions.release.validation import RELEASED_STRUCTURE
from k3m_jax.training import progress
from k3m_jax.training.flops import forward_flops
from k3m_jax.training.progress import Stopwatch
from k3m_jax.training.task_network import network_of

PRESETS = [
    ("hard", "paper"),
    ("soft", "paper"),
    ("soft", "release"),
    ("mean", "bert"),
    ("mean", "vilbert"),
    ("mean", "vlbert"),
    ("mean", "lxmert"),
]


TASKS = ("pretraining", "classification", "alignment", "questions")


@pytest.mark.parametrize(
    ("fusion", "preset", "task"),
    [
        (*each, task)
        for each in PRESETS
        for task in TASKS
        if (each[1], task) != ("release", "questions")  # it has no encoder of candidates
    ],
)
def test_the_formula_counts_what_the_compiler_counts(fusion, preset, task):
    """Fine-tuning runs no head of pretraining, and encodes candidates for questions alone."""
    settings = wide_settings(fusion, preset)
    if task != "pretraining":
        lpm = dataclasses.replace(settings.objectives.lpm, negative_values=7)
        settings = dataclasses.replace(
            settings,
            task=s.Task(name=task, classes=tuple("abc")),
            objectives=dataclasses.replace(settings.objectives, lpm=lpm),
        )
    network, rows = network_of(settings), settings.objectives.group
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    lowered = jax.jit(network.apply).lower(params, random_batch(settings, rows))
    counted = lowered.cost_analysis()["flops"] / rows
    assert forward_flops(settings) == pytest.approx(counted, rel=0.05)


def wide_settings(fusion, preset):
    """Of one layer each, for the compiler counts the body of a scan once; wide enough that matrix
    products outweigh the elementwise work, which the formula leaves out."""
    wide = s.Encoder(layers=1, width=256, heads=4, mlp=512)
    inter = s.Interactor(blocks=1, width=256, heads=4, image_mlp=512, text_mlp=512)
    model = dataclasses.replace(
        TINY.model, text=wide, image=wide, interactor=inter, fusion=s.Fusion(mode=fusion)
    )
    if preset == "release":
        # The only layers after the only block: each runs for both of a stream's passes.
        inter = dataclasses.replace(inter, text_layers=(0,), image_layers=(0,))
        changes = {"interactor": inter, "structure": RELEASED_STRUCTURE}
        model = dataclasses.replace(model, preset=preset, **changes)
        return dataclasses.replace(TINY, model=model)
    if preset != "paper":
        model = dataclasses.replace(model, preset=preset, knowledge_text=True, positions=24)
    return tiny_settings(model=model)


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_steps_and_waits_are_timed(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "peak_flops", lambda _: 1e9)
    watch = Stopwatch(TINY, jax.devices()[:2])

    def step(wait, seconds):
        with watch.waiting():
            clock.now += wait
        clock.now += seconds - wait
        watch.lap()

    step(50, 100)  # compiles: of no interest
    for wait, seconds in ((0.5, 1), (0, 3)):
        step(wait, seconds)
    report = watch.report()
    assert report["items_per_second"] == pytest.approx(2 * TINY.training.batch / 4)
    assert report["step_seconds_p50"] == pytest.approx(2)
    assert report["data_wait_share"] == pytest.approx(0.5 / 4)
    flops = 3 * forward_flops(TINY) * TINY.training.batch
    assert report["mfu"] == pytest.approx(flops / (2 * 2e9))
    assert watch.report() == {}

    watch.pause()
    step(7, 900)  # an evaluation lay between
    step(0, 2)
    assert watch.report()["step_seconds_p50"] == pytest.approx(2)


def test_a_device_of_unknown_peak_has_no_mfu():
    watch = Stopwatch(TINY, jax.devices())
    watch.lap()
    watch.lap()
    assert watch.report()["mfu"] is None
