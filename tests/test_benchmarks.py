"""What `launch.bench` measures: figures that are there and fit together, never how fast it is."""

import dataclasses
import json

import numpy as np
import pytest

from k3m_jax.benchmarks import batches as made
from k3m_jax.benchmarks.input import measure_batches
from k3m_jax.benchmarks.report import packed_noise, write
from k3m_jax.benchmarks.step import measure_step
from k3m_jax.benchmarks.timing import Timed, in_turns, median
from k3m_jax.data.input.batch import BatchLayout
from tests.products import inputs, memory_shards, products, settings_for
from tests.tiny import DETECTED, TINY


def test_calls_take_turns_and_the_first_is_not_counted():
    order = []

    def call(name, seconds):
        return lambda: order.append(name) or Timed(next(seconds), 1.0)

    found = in_turns({"a": call("a", iter((9, 1, 2, 3))), "b": call("b", iter((9, 4, 5, 6)))}, 3)
    assert order == ["a", "b"] * 4
    assert (median(found["a"]).wall, median(found["b"]).wall) == (2, 5)


def test_noise_fills_every_place_and_packing_keeps_its_tokens():
    batch = made.noise(TINY, 32)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == BatchLayout.of(TINY).spec(32)
    assert made.real_tokens(batch)[0] == made.real_tokens(batch)[1]
    settings = packed_noise(TINY, [batch])
    (packed,) = made.packed(settings, [batch])
    assert 0.8 < made.real_tokens(packed)[0] / made.real_tokens(packed)[1] <= 1


def test_real_texts_get_regions_of_noise():
    given = inputs(memory_shards(products(40)))
    settings = settings_for(given)
    image = dataclasses.replace(DETECTED.image, classes=settings.image.classes)
    regions = dataclasses.replace(settings, image=image)
    batches = made.real(settings, given, 2)
    noisy = made.with_regions_of_noise(settings, regions, batches)
    for batch, found in zip(batches, noisy, strict=True):
        assert found.keys() == BatchLayout.of(regions).spec(32).keys()
        np.testing.assert_array_equal(found["title_tokens"], batch["title_tokens"])
        np.testing.assert_array_equal(found["mlm_positions"], batch["mlm_positions"])
        assert found["region_mask"].all()


@pytest.mark.slow
def test_a_step_is_measured_next_to_a_matrix_product(tmp_path, capsys):
    batches = [made.noise(TINY, 32)]
    settings = packed_noise(TINY, batches)
    found = measure_step(settings, batches, 2)
    assert 0 < found["mfu_by_real_tokens"] <= found["mfu_by_slots"]
    # XLA's products are the model's: no layer is computed twice.
    ratio = found["compiled_flops_per_item"] / found["flops_per_item"]
    assert ratio == pytest.approx(1, rel=0.25)
    write({"what": "step", **found}, str(tmp_path / "step.json"))
    assert json.loads((tmp_path / "step.json").read_text()) == {"what": "step", **found}
    assert "| mfu_by_slots |" in capsys.readouterr().out


def test_input_is_measured_from_shards(tmp_path):
    given = inputs(memory_shards(products(40)))
    shards = given.shard_sets[0]
    shards.folder = tmp_path
    (tmp_path / "x.array_record-0").write_bytes(b"0" * 1000)
    found = measure_batches(settings_for(given), given, 2)
    assert found["bytes_per_item_stored"] * 40 == 1000
    assert found["items_per_core_second"] > 0
