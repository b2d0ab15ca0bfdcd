"""Packed text: every text is there, alone, and a run's numbers are those of padded text."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from k3m_jax import settings as s
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.data.input.pack_size import cheapest_rows, with_pack_size
from k3m_jax.data.input.packing import enough_rows, first_fit
from k3m_jax.data.input.pipeline import ALL_ROWS, HostRows, train_batches
from k3m_jax.model.network import Network
from k3m_jax.parallel.agreement import AgreedRows
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import UserError
from k3m_jax.training.trainer import Trainer
from tests.products import having, inputs, memory_shards, products, settings_for
from tests.random_batch import random_batch
from tests.tiny import TINY, baseline, released, tiny_program, tiny_settings

STEPS = 4
PACKED = tiny_settings(packing=s.Packing(products=8, rows=12))


@pytest.fixture(scope="module")
def given():
    """Items of which some lack a title, or triples."""
    items = products(40)
    items[3] = having(items[3], title="")
    items[5] = having(items[5], knowledge=())
    items[6] = having(items[6], title="", knowledge=())
    return inputs(memory_shards(items))


@pytest.fixture(scope="module")
def padded(given):
    return settings_for(given, training=dataclasses.replace(TINY.training, steps=STEPS))


@pytest.fixture(scope="module")
def packed(padded, given):
    return with_pack_size(padded, given, 1)[0]


def batches_of(settings, given, rows=ALL_ROWS):
    return list(train_batches(settings, given, rows=rows))


def texts(batch, packing):
    """Of each text its tokens, where padding has them and where packing put them."""
    packs = len(batch["title_tokens"]) // packing.items
    places = {x: batch[f"packed_{x}"].reshape(packs, -1) for x in ("tokens", "positions")}
    for name in packing.names:
        masks, starts = batch[f"{name}_mask"], batch[f"{name}_start"]
        for index in np.ndindex(starts.shape):
            own = batch[f"{name}_tokens"][index][masks[index]]
            span = slice(starts[index], starts[index] + len(own))
            pack = index[0] // packing.items
            assert (places["positions"][pack, span] == np.arange(len(own))).all()
            yield own, places["tokens"][pack, span], (name, pack, span)


def test_every_text_is_there_and_stands_in_one_row_alone(packed, given):
    packing = BatchLayout.of(packed).packing
    for batch in batches_of(packed, given):
        spans = set()
        for own, found, (_, pack, span) in texts(batch, packing):
            np.testing.assert_array_equal(own, found)
            if len(own):
                spans.add((pack, span.start, span.stop))
        segments = batch["packed_segments"].reshape(-1, packing.rows_of(batch) * packing.length)
        # As many tokens as texts that differ have: nothing else is encoded.
        assert (segments > 0).sum() == sum(stop - start for _, start, stop in spans)
        for pack, start, stop in spans:
            assert start // packing.length == (stop - 1) // packing.length
            assert len(set(segments[pack, start:stop])) == 1
            row = slice(start // packing.length * packing.length, None)
            of_row = segments[pack, row][: packing.length]
            assert (of_row == segments[pack, start]).sum() == stop - start


def test_equal_candidates_of_a_pack_are_one_text(packed, given):
    packing = BatchLayout.of(packed).packing
    for batch in batches_of(packed, given):
        places = {}
        for own, _, (name, pack, span) in texts(batch, packing):
            if name == "link" and len(own):
                places.setdefault((pack, own.tobytes()), set()).add(span.start)
        assert places
        assert all(len(starts) == 1 for starts in places.values())


def test_fewer_slots_are_computed(packed, padded, given):
    (batch, *_) = batches_of(packed, given)
    real = (batch["packed_segments"] > 0).mean()
    masks = [batch[f"{name}_mask"] for name in BatchLayout.of(packed).packing.names]
    assert real > 0.8 > np.concatenate([mask.ravel() for mask in masks]).mean()


def trained(settings, batches, *mesh):
    """Metrics of each step, and the parameters after the last."""
    program = Trainer(Network(settings), make_mesh(s.Mesh(*(mesh or (1, 1, 1)))))
    state, history = program.init(), []
    for batch in batches:
        state, metrics = program.step(state, program.place(batch))
        history.append(jax.device_get(metrics))
    return history, jax.device_get(state.params)


def test_a_trajectory_is_that_of_padded_text(packed, padded, given):
    expected = trained(padded, batches_of(padded, given))
    found = trained(packed, batches_of(packed, given))
    # Float32 sums in another order, over a few steps of Adam, which divides by small numbers.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), found, expected
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 2, 2), (4, 1, 1)])
def test_devices_encode_packs_of_their_own(mesh):
    batches = [random_batch(PACKED, PACKED.training.batch, seed) for seed in range(2)]
    expected = trained(TINY, [random_batch(TINY, TINY.training.batch, k) for k in range(2)])
    found = trained(PACKED, batches, *mesh)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), found, expected
    )


@pytest.mark.slow
def test_micro_batches_take_whole_packs():
    """With `soft` fusion, which draws nothing: noise is drawn per micro-batch."""
    fusion = dataclasses.replace(TINY.model.fusion, mode="soft")
    model = dataclasses.replace(TINY.model, fusion=fusion)
    batch = random_batch(PACKED, PACKED.training.batch)
    results = []
    for accumulation in (1, 2):
        training = dataclasses.replace(TINY.training, accumulation=accumulation)
        settings = dataclasses.replace(PACKED, model=model, training=training)
        results.append(trained(settings, [batch], 2, 1, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), *results)


def test_a_batch_that_needs_more_rows_gets_them_and_loses_nothing(packed, given):
    few = dataclasses.replace(packed, packing=dataclasses.replace(packed.packing, rows=4))
    packing = BatchLayout.of(few).packing
    made = batches_of(few, given)
    for batch in made:
        assert packing.rows_of(batch) > packing.rows
        for own, found, _ in texts(batch, packing):
            np.testing.assert_array_equal(own, found)


def test_hosts_make_the_parts_of_what_one_makes(padded, given):
    settings = dataclasses.replace(padded, packing=s.Packing(products=8, rows=14))
    whole = batches_of(settings, given)
    parts = [batches_of(settings, given, HostRows((block,), 2)) for block in range(2)]
    packing = BatchLayout.of(settings).packing
    for batch, *halves in zip(whole, *parts, strict=True):
        rows = packing.rows_of(batch)
        halves = [packing.widened(half, rows) for half in halves]
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([half[name] for half in halves]))


def test_processes_agree_on_the_largest_part(packed, given):
    packing, mesh = BatchLayout.of(packed).packing, make_mesh(packed.mesh)
    agreed = AgreedRows(train_batches(packed, given), packing, mesh)
    for batch, own in itertools.zip_longest(agreed, batches_of(packed, given)):
        for name, array in own.items():
            np.testing.assert_array_equal(array, batch[name])
    agreed.close()
    wide = packing.widened(own, packing.rows_of(own) + 2)
    assert packing.rows_of(wide) == packing.rows_of(own) + 2
    for text, found, _ in texts(wide, packing):
        np.testing.assert_array_equal(text, found)


def test_the_pack_size_depends_on_the_run_alone(packed, padded, given):
    assert with_pack_size(padded, given, 1)[0] == packed
    assert with_pack_size(packed, given, 1)[0] == packed
    seeded = with_pack_size(dataclasses.replace(padded, seed=7), given, 1)[0]
    assert seeded.packing == packed.packing
    assert packed.packing.products == packed.training.batch
    assert with_pack_size(padded, given, 4)[0].packing.products == packed.training.batch // 4
    off = dataclasses.replace(padded, packing=s.Packing(texts=False))
    assert BatchLayout.of(with_pack_size(off, given, 1)[0]).packing is None


@pytest.mark.parametrize("settings", [released(TINY), baseline("vilbert")])
def test_other_presets_pad(settings, given):
    assert BatchLayout.of(with_pack_size(settings, given, 1)[0]).packing is None


def test_rows_are_the_fewest_that_a_run_pays_for():
    needed = np.array([10] * 90 + [12] * 10)
    assert cheapest_rows(needed, steps=100) == 12
    assert cheapest_rows(needed, steps=100_000) == 10
    assert [enough_rows(8, n) for n in (1, 8, 9, 10, 11)] == [8, 8, 10, 10, 12]


def test_texts_fill_the_gaps_of_longer_ones():
    lengths = [6, 0, 3, 8, 5, 2]
    row, column, number, rows = first_fit(lengths, np.argsort(lengths)[::-1].tolist(), 8)
    assert rows == 3
    assert row[3] == 0
    assert (row[0], row[5], column[5], number[5]) == (1, 1, 6, 2)
    assert (row[4], row[2], column[2]) == (2, 2, 5)


def test_packs_that_no_device_has_whole_are_refused():
    with pytest.raises(UserError, match=r"packing\.products 32"):
        tiny_program(tiny_settings(packing=s.Packing(products=32, rows=40)), 2, 1, 1)
