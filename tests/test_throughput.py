import dataclasses
import math

import jax
import pytest
from tiny import TINY, tiny_settings

from k3m_jax import settings as s
from k3m_jax.data.input.batch import batch_spec, random_batch
from k3m_jax.model.task_network import network_of
from k3m_jax.parallel import accelerators
from k3m_jax.parallel.shardings import unbox
from k3m_jax.training import throughput
from k3m_jax.training.flops import forward_flops
from k3m_jax.training.throughput import Stopwatch, measure_input
from tests.products import inputs, memory_shards, products, settings_for

PRESETS = [
    ("hard", "paper"),
    ("soft", "paper"),
    ("soft", "release"),
    ("mean", "bert"),
    ("mean", "vilbert"),
    ("mean", "vlbert"),
    ("mean", "lxmert"),
]


@pytest.mark.parametrize(("fusion", "preset"), PRESETS)
def test_the_formula_counts_what_the_compiler_counts(fusion, preset):
    check_count(wide_settings(fusion, preset))


@pytest.mark.parametrize(
    ("fusion", "preset", "task"),
    [
        (*each, task)
        for each in PRESETS
        for task in ("classification", "alignment", "questions")
        if (each[1], task) != ("release", "questions")  # it has no encoder of candidates
    ],
)
def test_it_does_in_fine_tuning_too(fusion, preset, task):
    """Which runs no head of pretraining, and encodes candidates for questions alone."""
    settings = wide_settings(fusion, preset)
    objectives = settings.objectives
    check_count(
        dataclasses.replace(
            settings,
            task=s.Task(name=task, classes=tuple("abc")),
            objectives=dataclasses.replace(
                objectives, lpm=dataclasses.replace(objectives.lpm, negative_values=7)
            ),
        )
    )


def check_count(settings):
    network, rows = network_of(settings), settings.objectives.group
    params = jax.eval_shape(lambda: unbox(network.init_params(jax.random.key(0))))
    lowered = jax.jit(network.apply).lower(params, random_batch(settings, rows))
    counted = lowered.cost_analysis()["flops"] / rows
    assert forward_flops(settings) == pytest.approx(counted, rel=0.05)


def wide_settings(fusion, preset):
    """Of one layer each, for the compiler counts the body of a scan once; wide enough that matrix
    products outweigh the elementwise work, which the formula leaves out."""
    wide = s.Encoder(layers=1, width=256, heads=4, mlp=512)
    settings = tiny_settings(
        model=dataclasses.replace(
            TINY.model,
            text=wide,
            image=wide,
            interactor=s.Interactor(blocks=1, width=256, heads=4, image_mlp=512, text_mlp=512),
            fusion=s.Fusion(mode=fusion),
        )
    )
    if preset == "release":
        return of_the_release(settings, fusion)
    if preset != "paper":
        how = {"preset": preset, "knowledge_text": True, "positions": 24}
        return tiny_settings(model=dataclasses.replace(settings.model, **how))
    return settings


def of_the_release(settings, fusion):
    """The only layers after the only block: each runs for both of a stream's passes."""
    inter = dataclasses.replace(settings.model.interactor, text_layers=(0,), image_layers=(0,))
    model = dataclasses.replace(
        settings.model,
        preset="release",
        interactor=inter,
        fusion=s.Fusion(mode=fusion),
        structure=s.RELEASED_STRUCTURE,
    )
    return dataclasses.replace(settings, model=model)


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_steps_and_waits_are_timed(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    chip = accelerators.CHIPS[0]._replace(flops=1e9)
    monkeypatch.setattr(throughput, "find_chip", lambda _: chip)
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


def test_the_input_of_a_run_is_measured_without_a_model():
    given = inputs(memory_shards(products(20)))
    settings = settings_for(given, training=s.Training(steps=9, batch=8))
    found = measure_input(settings, given, steps=2)
    assert found.items == 16
    assert found.rate == found.items / found.cpu_seconds > 0
    per_item = sum(
        math.prod(shape) * dtype.itemsize for shape, dtype in batch_spec(settings, 8).values()
    )
    assert found.bytes_per_item == per_item / 8
