import dataclasses

import jax
import numpy as np
import pytest
from random_batch import random_batch
from tiny import TINY, tiny_program, tiny_settings

from k3m_jax.model.network import Network
from k3m_jax.settings import Settings, UserError
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_meta, load_params

META = Meta.of(TINY, ["products"], "words")


@pytest.fixture(scope="module")
def program():
    return tiny_program()


@pytest.fixture
def state(program):
    return program.init()


@pytest.fixture
def open_run(tmp_path):
    """Opens the checkpoints of one folder, one after the other, as runs that follow each other."""
    opened = []

    def start(meta=META, keep=2):
        while opened:
            opened.pop().close()
        opened.append(Checkpoints(tmp_path, meta, keep))
        return opened[0]

    yield start
    while opened:
        opened.pop().close()


def save(checkpoints, state, step, loss=None):
    checkpoints.save(step, at(state, step))
    if loss is not None:
        checkpoints.record_loss(step, loss)
    checkpoints.wait()


def at(state, step):
    return state._replace(step=jax.device_put(np.int32(step), state.step.sharding))


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(actual), jax.device_get(expected))


def test_a_fresh_folder_has_nothing(open_run, program):
    assert open_run().restore(program.abstract_state) is None


def test_what_is_saved_is_the_state_of_that_moment(open_run, program):
    """The step after it reuses the memory that is being written from."""
    batch = program.place(random_batch(TINY, TINY.training.batch))
    state, _ = program.step(program.init(), batch)
    expected = jax.tree.map(np.copy, jax.device_get(state))
    checkpoints = open_run()
    checkpoints.save(1, state)
    for _ in range(3):
        state, _ = program.step(state, batch)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert_equal(open_run().restore(program.abstract_state), expected)


def test_any_mesh_restores_it(open_run, program, state):
    save(open_run(), state, 4)
    other = tiny_program(TINY, 2, 2, 2)
    restored = open_run().restore(other.abstract_state)
    assert_equal(restored, at(state, 4))
    placed = jax.tree.map(lambda x: x.sharding, restored)
    assert placed == jax.tree.map(lambda x: x.sharding, other.abstract_state)


def test_the_newest_and_the_best_are_kept(open_run, state, tmp_path):
    checkpoints = open_run(keep=2)
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4), (4, None), (5, float("nan")), (6, None)):
        save(checkpoints, state, step, loss)
    assert steps(tmp_path) == [2, 5, 6]


def test_a_save_that_was_killed_is_as_if_it_never_began(open_run, program, state, tmp_path):
    save(open_run(), state, 1)
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "params"
    left.mkdir(parents=True)
    (left / "manifest").write_bytes(b"half")
    checkpoints = open_run()
    assert int(checkpoints.restore(program.abstract_state).step) == 1
    save(checkpoints, state, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_damaged_checkpoint_is_renamed(open_run, program, state, tmp_path):
    for step in (1, 2):
        save(open_run(), state, step)
    damage(tmp_path / "checkpoints" / "2")
    checkpoints = open_run()
    with pytest.warns(UserWarning, match="unreadable-2"):
        assert int(checkpoints.restore(program.abstract_state).step) == 1
    save(checkpoints, state, 2)
    assert int(open_run().restore(program.abstract_state).step) == 2


def test_nothing_readable_is_an_error_not_a_new_run(open_run, program, state, tmp_path):
    save(open_run(), state, 1)
    damage(tmp_path / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        open_run().restore(program.abstract_state)


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "params" in path.parts:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(group, **values):
    return {group: dataclasses.replace(getattr(TINY, group), **values)}


def changed(group, **values):
    groups = {group: dataclasses.replace(getattr(TINY, group), **values)}
    return Meta.of(tiny_settings(**groups), ["products"], "words")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed("optimizer", learning_rate=0.5), r"optimizer\.learning_rate = 0\.001, not 0\.5"),
        (changed("training", steps=11), r"training\.steps = 10, not 11"),
        (Meta.of(tiny_settings(seed=1), ["products"], "words"), "seed = 0, not 1"),
        (dataclasses.replace(META, data=["others"]), r"data\.sources"),
        (dataclasses.replace(META, vocabulary="others"), r"data\.tokenizer"),
    ],
)
def test_another_run_in_the_folder_names_the_key(open_run, program, state, other, message):
    save(open_run(), state, 1)
    with pytest.raises(UserError, match=message):
        open_run(other).restore(program.abstract_state)


@pytest.mark.parametrize(
    "same",
    [
        changed("training", accumulation=2, keep=9, log_every=5),
        changed("data", sources=("moved/here",), workers=3, threads=5),
        changed("mesh", data=2),
        changed("model", remat=True, unroll=True),
    ],
)
def test_what_does_not_change_what_is_learned_may_change(open_run, program, state, same):
    save(open_run(), state, 1)
    assert open_run(same).restore(program.abstract_state) is not None


def test_evaluation_reads_parameters_alone(open_run, program, state, tmp_path):
    checkpoints = open_run()
    for step, loss in ((1, 0.1), (2, 0.5), (3, None)):
        save(checkpoints, state, step, loss)
    assert Settings.from_config(load_meta(tmp_path).settings) == TINY
    network = Network(TINY)
    for which, step in (("best", 1), ("latest", 3), (2, 2)):
        params, found = load_params(tmp_path, which, network, program.mesh)
        assert found == step
        assert_equal(params, state.params)
    with pytest.raises(UserError, match=r"no checkpoint of step 7, only of \[1, 2, 3\]"):
        load_params(tmp_path, 7, network, program.mesh)


def test_the_best_of_nothing_measured_is_the_latest(open_run, program, state, tmp_path):
    checkpoints = open_run()
    for step in (1, 2):
        save(checkpoints, state, step)
    assert load_params(tmp_path, "best", Network(TINY), program.mesh)[1] == 2


def test_a_disk_that_fails_costs_no_checkpoint(open_run, program, state, tmp_path, monkeypatch):
    checkpoints = open_run()
    for step in (1, 2):
        save(checkpoints, state, step)

    def refuse(*_):
        raise PermissionError("permission denied")

    monkeypatch.setattr(checkpoints, "_restore", refuse)
    with pytest.raises(UserError, match=r"checkpoints/2 can't be read .*permission denied"):
        checkpoints.restore(program.abstract_state)
    assert steps(tmp_path) == [1, 2]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="train first"):
        load_meta(tmp_path)
