"""Every file of a checkpoint, damaged in every way: the right numbers, older ones, or one line."""

import errno
import json
import os
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damage import KINDS, files, inflict
from tiny import TINY

from k3m_jax.parallel.digests import digests
from k3m_jax.settings import UserError
from k3m_jax.training import checkpoints as checkpoints_module
from k3m_jax.training.checkpoint_record import DamagedError, Record
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_meta, open_checkpoint, verify
from k3m_jax.training.step import State

# Orbax leaves its other reads behind when one fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RUN = Meta.of(TINY, ["products"], "words")
SHAPES = {"words": (40, 8), "kernel": (3, 8, 16), "bias": (16,), "scale": ()}


def state_of(step):
    rng = np.random.default_rng(step)
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in SHAPES.items()}
    moments = {"mu": params["kernel"] / 2, "imported": jnp.asarray([True, False])}
    return State(jnp.int32(step), params, moments, jnp.int32(0))


ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0)
)


def equal(state, step):
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the checkpoints 4 and 8, of which the older is the better."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(folder, RUN, keep=2)
    for step, loss in ((4, 0.5), (8, 0.7)):
        checkpoints.save(step, state_of(step))
        checkpoints.record_loss(step, loss)
    checkpoints.close()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def resume(folder):
    checkpoints = Checkpoints(folder, RUN, keep=2)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            return checkpoints.restore(ABSTRACT), [str(w.message) for w in said]
    finally:
        checkpoints.close()


def load(folder, which):
    """As evaluation and export do, with all arrays: parameters alone need a network."""
    with open_checkpoint(folder, which) as (manager, step):
        record = Record.read(manager.directory / str(step))
        arrays = checkpoints_module.read_arrays(manager, step, ABSTRACT)
        verify(record, arrays.params, arrays.progress)
        return arrays.progress._replace(params=arrays.params)


def assert_survives(folder, name, kind, seed):
    """Of a checkpoint 8 whose file `name` is damaged."""
    inflict(folder / "checkpoints" / "8" / name, kind, seed)
    assert equal(load(folder, "best"), 4)  # the other one, which is whole
    said = ""
    try:
        loaded = load(folder, 8)
    except UserError as error:
        said = str(error)
    assert "damaged" in said if said else equal(loaded, 8)
    assert "\n" not in said
    state, said = resume(folder)
    if int(state.step) == 8:
        assert equal(state, 8)
        assert not said
    else:
        assert equal(state, 4)
        assert any("unreadable-8" in each for each in said)
        assert (folder / "checkpoints" / "unreadable-8").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", ["params", "meta"])
def test_the_largest_file_of_an_item(run, item, kind):
    folder = run / "checkpoints" / "8" / item
    largest = max(files(folder), key=lambda name: (folder / name).stat().st_size)
    assert_survives(run, f"{item}/{largest}", kind, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_file(whole, tmp_path, kind):
    for i, name in enumerate(files(whole / "checkpoints" / "8")):
        shutil.copytree(whole, tmp_path / str(i))
        assert_survives(tmp_path / str(i), name, kind, seed=i)


@pytest.mark.long
def test_a_thousand_bit_flips(whole, tmp_path):
    names = files(whole / "checkpoints" / "8")
    sizes = np.array([(whole / "checkpoints" / "8" / name).stat().st_size for name in names])
    rng = np.random.default_rng(0)
    for i in range(1000):
        name = names[rng.choice(len(names), p=sizes / sizes.sum())]
        shutil.copytree(whole, tmp_path / "run")
        assert_survives(tmp_path / "run", name, "flip", seed=i)
        shutil.rmtree(tmp_path / "run")


def test_arrays_of_another_step(run):
    for item in ("params", "progress"):
        shutil.rmtree(run / "checkpoints" / "8" / item)
        shutil.copytree(run / "checkpoints" / "4" / item, run / "checkpoints" / "8" / item)
    with pytest.raises(UserError, match=r"checkpoint 8 .* is damaged \(the array"):
        load(run, 8)
    assert equal(resume(run)[0], 4)


def test_a_checkpoint_under_the_number_of_another_step(run):
    shutil.copytree(run / "checkpoints" / "8", run / "checkpoints" / "12")
    with pytest.raises(UserError, match="it is the checkpoint of step 8"):
        load_meta(run, 12)
    assert equal(resume(run)[0], 8)


@pytest.mark.parametrize("key", ["settings", "data", "vocabulary", "record"])
def test_a_record_that_says_something_else(run, key):
    """Valid JSON, so that the seal alone finds it."""
    path = run / "checkpoints" / "8" / "meta" / "metadata"
    written = json.loads(path.read_text())
    match key:
        case "settings":
            written["settings"]["seed"] = 5
        case "data":
            written["data"] = ["productz"]
        case "vocabulary":
            written["vocabulary"] = "wordz"
        case "record":
            written["record"]["digests"].popitem()
    path.write_text(json.dumps(written))
    assert equal(load(run, "best"), 4)
    assert equal(resume(run)[0], 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_loss_costs_the_rank_alone(run, kind):
    inflict(run / "checkpoints" / "4" / "held_out.json", kind)
    assert equal(load(run, "best"), 8)
    assert equal(resume(run)[0], 8)


def test_a_damaged_record_of_an_older_checkpoint_stops_nothing(run):
    inflict(run / "checkpoints" / "4" / "meta" / "metadata", "cut")
    assert equal(resume(run)[0], 8)
    with pytest.raises(UserError, match=r"checkpoint 4 .* is damaged .* of \[8\]"):
        load(run, "best")


def test_a_step_that_is_damaged_twice(run):
    for name in ("unreadable-8", "unreadable-8-2"):
        inflict(run / "checkpoints" / "8" / "meta" / "metadata", "cut")
        assert equal(resume(run)[0], 4)
        assert (run / "checkpoints" / name).exists()
        checkpoints = Checkpoints(run, RUN, keep=2)
        checkpoints.save(8, state_of(8))
        checkpoints.wait()
        checkpoints.close()
    assert equal(resume(run)[0], 8)


def test_all_of_them_damaged_is_one_line_and_nothing_is_renamed(run):
    for step in ("4", "8"):
        inflict(run / "checkpoints" / step / "meta" / "metadata", "gone")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        resume(run)
    assert {"4", "8"} <= {p.name for p in (run / "checkpoints").iterdir()}


@pytest.mark.parametrize("number", ["EIO", "EACCES", "ESTALE"])
def test_a_disk_that_fails_renames_nothing(run, monkeypatch, number):
    """Also where the library hides its error in a bare Exception, with no cause."""
    error, path = OSError(getattr(errno, number), os.strerror(getattr(errno, number))), "params"
    before = checkpoints_module.remote.files_below

    def refuse(folder):
        if path in map(str, folder.parts) or folder.name == "8":
            raise error
        return before(folder)

    monkeypatch.setattr(checkpoints_module.remote, "files_below", refuse)
    inflict(run / "checkpoints" / "8" / "params" / "_METADATA", "cut")
    with pytest.raises(UserError, match="checkpoints/8 can't be read"):
        resume(run)
    assert (run / "checkpoints" / "8").exists()


def test_a_kill_while_one_is_deleted_leaves_no_half_checkpoint(run):
    """Deletion begins with a new name, and the next save finishes it."""
    checkpoints = Checkpoints(run, RUN, keep=1)
    checkpoints.save(12, state_of(12))
    checkpoints.record_loss(12, 0.1)
    checkpoints.save(16, state_of(16))
    checkpoints._manager.wait_until_finished()  # as a kill would leave it
    checkpoints.close()
    kept = {p.name for p in (run / "checkpoints").iterdir()}
    assert kept == {"12", "16", "deleted"}
    checkpoints = Checkpoints(run, RUN, keep=1)
    assert equal(checkpoints.restore(ABSTRACT), 16)
    checkpoints.wait()
    checkpoints.close()
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"12", "16"}


def test_every_kth_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, RUN, keep=1, keep_every=4)
    for step in range(1, 11):
        checkpoints.save(step, state_of(step))
        checkpoints.record_loss(step, 1 / step if step != 3 else 0.01)
    checkpoints.close()
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {3, 4, 8, 10}  # the best, every fourth, the newest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "float16", "uint8"])
def test_digests_notice_each_element_and_each_move(dtype):
    rng = np.random.default_rng(0)
    array = np.asarray(jnp.asarray(rng.integers(0, 2, (5, 7, 3)), dtype))
    seen = {digests({"x": array})["x"]}
    for place in np.ndindex(array.shape):
        other = array.copy()
        other[place] = 1 - other[place] if dtype != "bool" else ~other[place]
        seen.add(digests({"x": other})["x"])
    assert len(seen) == array.size + 1
    moved = [array[::-1], array.transpose(1, 0, 2), array.reshape(7, 5, 3), np.roll(array, 1)]
    assert not {digests({"x": np.ascontiguousarray(x)})["x"] for x in moved} & seen


def test_signs_of_two_elements():
    """What cancels out in a plain sum of words."""
    array = np.ones((4, 4), np.float32)
    other = array.copy()
    other[0, 1] = other[2, 3] = -1
    assert digests({"x": array}) != digests({"x": other})


def test_an_unverified_checkpoint_says_so():
    with pytest.warns(UserWarning, match="without digests"):
        verify(Record(RUN, 4), {})
    with pytest.raises(DamagedError):
        verify(Record(RUN, 4, digests={"params/x": "other"}), {"x": np.zeros(2, np.float32)})
