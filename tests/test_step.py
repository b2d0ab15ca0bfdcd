import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch
from tiny import TINY, released, tiny_program, tiny_settings

from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.settings import Debug, Mesh, UserError
from k3m_jax.training.step import gumbel_temperature, init_state, micro_batches, train_step
from k3m_jax.training.trainer import Trainer

# Float32 sums in another order, over a few steps of Adam, which divides by small numbers.
ACROSS_MESHES = {"rtol": 1e-4, "atol": 2e-5}


def run(program, steps=3):
    """Parameters after `steps` and each step's metrics."""
    state, history = program.init(), []
    for step in range(steps):
        batch = program.place(random_batch(TINY, TINY.training.batch, seed=step))
        state, metrics = program.step(state, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(state.params), history


@pytest.fixture(scope="module")
def on_one_device():
    return run(tiny_program())


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ACROSS_MESHES), actual, expected)


UNROLLED = tiny_settings(model=dataclasses.replace(TINY.model, unroll=True))


@pytest.mark.parametrize(
    ("settings", "mesh"),
    [
        (TINY, (2, 2, 2)),
        pytest.param(TINY, (8, 1, 1), marks=pytest.mark.slow),
        pytest.param(TINY, (2, 4, 1), marks=pytest.mark.slow),
        pytest.param(UNROLLED, (2, 2, 2), marks=pytest.mark.slow),
    ],
)
def test_every_mesh_computes_the_same(on_one_device, settings, mesh):
    """Dropout is off, but the Gumbel noise of `hard` fusion is drawn: it too must not depend."""
    assert_close(run(tiny_program(settings, *mesh)), on_one_device)


def loops(jaxpr):
    """The length of each loop, and how many turns of it are compiled one after another."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["unroll"]
        for inner in (getattr(x, "jaxpr", x) for x in jax.tree.leaves(equation.params)):
            if hasattr(inner, "eqns"):
                yield from loops(inner)


@pytest.mark.parametrize("settings", [UNROLLED, released(UNROLLED)], ids=["paper", "release"])
def test_unrolled_a_step_has_no_loop_and_the_rest_keeps_it(settings):
    """Where one would be long to compile, or large: at initialisation and in what is exported."""
    network, key = Network(settings), jax.random.key(0)
    batch = random_batch(settings, settings.objectives.group)
    params = jax.eval_shape(network.init_params, key)

    def turns(function, *args):
        return list(loops(jax.make_jaxpr(function)(*args).jaxpr))

    unrolled = turns(network.apply, params, batch)
    assert max(unrolled) > (1, 1)
    assert all(unroll == max(length, 1) for length, unroll in unrolled)
    scanned = turns(network.init_params, key), turns(network.scanned().apply, params, batch)
    for each in scanned:
        assert max(each) > (1, 1)
        assert all(unroll == 1 for _, unroll in each)


def test_runs_that_differ_by_their_seed_share_a_program():
    """So that repetitions of a run find it compiled."""

    def programs(seed):
        network = Network(tiny_settings(seed=seed))
        initial = functools.partial(init_state, network)
        state, batch = jax.eval_shape(initial, 0), random_batch(TINY, TINY.training.batch)
        step = jax.make_jaxpr(functools.partial(train_step, network))(np.uint32(seed), state, batch)
        return str(jax.make_jaxpr(initial)(np.uint32(seed))), str(step)

    assert programs(0) == programs(7)
    state = tiny_program().init()
    other = tiny_program(tiny_settings(seed=7)).init()
    assert not np.array_equal(*(jax.tree.leaves(s.params)[0] for s in (state, other)))


def test_a_run_that_goes_on_takes_its_first_step_without_init(monkeypatch):
    """Nothing is brought from the host within a step, nor the seed that `init` would have."""
    program = Trainer(Network(TINY), make_mesh(TINY.mesh))
    monkeypatch.setattr(program, "_step", lambda seed, state, batch: (state, {"seed": seed}))
    _, metrics = program.step(program.abstract_state, {})
    assert metrics["seed"].is_fully_replicated
    assert metrics["seed"] == TINY.seed


@pytest.mark.parametrize(
    ("debug", "transfers"),
    [(Debug(), "disallow"), (Debug(nans=True), "allow"), (Debug(disable_jit=True), "allow")],
)
def test_jax_may_look_at_arrays_on_the_host_where_it_must(monkeypatch, debug, transfers):
    """A CPU's arrays are on the host already: only a GPU or TPU would refuse to look."""
    program = Trainer(Network(tiny_settings(debug=debug)), make_mesh(TINY.mesh))
    seen = []
    monkeypatch.setattr(
        program,
        "_step",
        lambda *_: seen.append(jax.config.jax_transfer_guard_device_to_host),
    )
    program.step(program.abstract_state, {})
    assert seen == [transfers]


# Made by this test on a CPU with jax 0.10: what the first step of the tiny model says.
FIRST_STEP = {
    "mlm_loss": 4.081785,
    "mom_loss": 1.324329,
    "lpm_loss": 1.048525,
    "gradient_norm": 6.384025,
}


def test_the_first_step_is_unchanged(on_one_device):
    _, history = on_one_device
    found = {name: float(history[0][name]) for name in FIRST_STEP}
    assert found == pytest.approx(FIRST_STEP, rel=1e-4), (
        "the model, its initialisation, a loss or the noise has changed; if that is meant, say so "
        f"in the commit and write these numbers to FIRST_STEP: {found}"
    )


def test_metrics_are_scalars_and_finite(on_one_device):
    _, history = on_one_device
    assert set(history[0]) == {
        "loss", "mlm_loss", "mom_loss", "lpm_loss", "mlm_accuracy", "mom_top1", "lpm_accuracy",
        "gradient_norm", "learning_rate", "temperature", "skipped", "picture_share",
    }  # fmt: skip
    assert all(np.shape(x) == () and np.isfinite(x) for x in history[0].values())
    loss = sum(history[0][f"{task}_loss"] for task in ("mlm", "mom", "lpm"))
    np.testing.assert_allclose(history[0]["loss"], loss, rtol=1e-6)


@pytest.mark.slow
def test_micro_batches_add_up_to_the_whole():
    """Without noise, which is drawn per micro-batch, only the order of sums differs.

    The batch is uneven on purpose: one half of the groups has no title to predict, so that a mean
    of the micro-batches' means would be another number.
    """
    soft = dataclasses.replace(
        TINY.model, fusion=dataclasses.replace(TINY.model.fusion, mode="soft")
    )
    batch = random_batch(TINY, TINY.training.batch)
    groups = np.arange(TINY.training.batch) // TINY.objectives.group
    batch["mlm_weights"][groups % 2 == 0] = 0
    results = []
    for accumulation in (1, 4):
        training = dataclasses.replace(TINY.training, accumulation=accumulation)
        settings = tiny_settings(model=soft, training=training)
        program = tiny_program(settings, 2, 1, 1)
        state, metrics = program.step(program.init(), program.place(batch))
        results.append((jax.device_get(state.params), jax.device_get(metrics)))
    assert_close(results[1], results[0])


def test_micro_batches_take_whole_groups_from_every_device():
    rows = {"x": np.arange(16)}  # 2 devices x 2 micro-batches x groups of 2, twice
    split = micro_batches(rows, count=2, units=8)["x"]
    assert split.tolist() == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]


def test_a_step_that_is_not_finite_is_refused():
    program, batch = tiny_program(), random_batch(TINY, TINY.training.batch)
    broken = {**batch, "class_probs": np.full_like(batch["class_probs"], np.nan)}
    before = jax.device_get(program.init())
    state, metrics = program.step(program.init(), program.place(broken))
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (after.step, after.skipped) == (1, 1)
    assert not np.isfinite(metrics["loss"])

    state, metrics = program.step(state, program.place(batch))
    assert (int(state.step), int(state.skipped)) == (2, 1)
    assert np.isfinite(metrics["loss"])
    assert np.any(jax.device_get(state.params["absent"]) != after.params["absent"]) or np.any(
        jax.device_get(state.params["text_encoder"]["words"])
        != after.params["text_encoder"]["words"]
    )


def test_a_batch_without_targets_costs_nothing():
    program, batch = tiny_program(), random_batch(TINY, TINY.training.batch)
    nothing = {k: np.zeros_like(x) if k.endswith("_weights") else x for k, x in batch.items()}
    state, metrics = program.step(program.init(), program.place(nothing))
    assert metrics["loss"] == 0
    assert metrics["gradient_norm"] == 0
    assert state.skipped == 0


def test_no_step_compiles_after_the_first():
    """Nor does any bring something from the host: `Trainer.step` guards itself against that."""
    program = tiny_program()
    batch = program.place(random_batch(TINY, TINY.training.batch))
    state, _ = program.step(program.init(), batch)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        for _ in range(3):
            state, _ = program.step(state, batch)
        assert not compiled
        jax.jit(lambda x: x + 1)(jnp.zeros(17))
        assert compiled  # the listener does hear
    finally:
        jax.monitoring.clear_event_listeners()


def test_the_state_is_donated():
    program = tiny_program()
    state = program.init()
    program.step(state, program.place(random_batch(TINY, TINY.training.batch)))
    assert state.params["text_encoder"]["words"].is_deleted()


def test_the_temperature_falls_geometrically():
    network = Network(TINY)
    values = [float(gumbel_temperature(network, step)) for step in range(TINY.training.steps)]
    assert values[0] == pytest.approx(TINY.model.fusion.temperature_start)
    assert values[-1] == pytest.approx(TINY.model.fusion.temperature_end)
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(0.5) / 9, rtol=1e-5)


@pytest.mark.parametrize(
    ("group", "changes", "blocks", "message"),
    [
        ("training", {"accumulation": 2}, 1, r"training\.batch 32 .* 8 x training\.accumulation 2"),
        ("evaluation", {"batch": 20}, 1, r"evaluation\.batch 20 .*mesh\.data x mesh\.fsdp 8"),
        ("evaluation", {"batch": 24}, 4, r"evaluation\.batch 24 .*objectives\.group 4 x 4 .*16"),
    ],
)
def test_a_batch_that_does_not_fit_the_mesh_names_the_keys(
    monkeypatch, group, changes, blocks, message
):
    """Also one of the evaluation, at once; of one process, and of several that read `blocks`."""
    monkeypatch.setattr("k3m_jax.training.trainer.process_blocks", lambda mesh: ((0,), blocks))
    settings = tiny_settings(**{group: dataclasses.replace(getattr(TINY, group), **changes)})
    with pytest.raises(UserError, match=message):
        Trainer(Network(settings), make_mesh(Mesh()))
