import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import export, tiny_model, tiny_params
from products import tokenizer
from random_batch import random_batch
from safetensors.numpy import save_file
from tiny import TINY, tiny_program, tiny_settings

from k3m_jax import settings as s
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.model.network import Network, flat, nested
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.pretrained.weights_file import WEIGHTS, write_weights
from k3m_jax.settings import UserError
from k3m_jax.training.checkpoints import Checkpoints, Meta, load_meta
from k3m_jax.training.optimizer import make_optimizer, mark_imported
from k3m_jax.training.starting import init_or_restore, read_init_from

ORIGIN = {"format": "bert", "tensors": 37}
MESH = make_mesh(s.Mesh(data=1))


@pytest.fixture(scope="module")
def text_encoder():
    """What an import might give: the text encoder alone, by name."""
    every = flat(tiny_params(tiny_model()))
    return {name: every[name] for name in every if name.startswith("text_encoder/")}


@pytest.fixture(scope="module")
def folder(text_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    tokenizer().save(folder)
    write_weights(folder / WEIGHTS, nested(text_encoder), ORIGIN)
    return folder


def warm(folder, rate=1.0, **model):
    """Settings of a run that starts from a folder."""
    plain = tiny_model().settings
    return tiny_settings(
        model=dataclasses.replace(plain.model, **model),
        init_from=str(folder),
        optimizer=dataclasses.replace(plain.optimizer, imported_rate=rate),
    )


@pytest.fixture
def open_run(tmp_path):
    """The first state of a run in one folder, and its checkpoints; closes those of the last."""
    opened = []

    def start(program):
        while opened:
            opened.pop().close()
        meta = Meta.of(program.network.settings, ["p"], "w")
        opened.append(Checkpoints(tmp_path / "run", meta, keep=1))
        return init_or_restore(program, opened[0], tokenizer()), opened[0]

    yield start
    while opened:
        opened.pop().close()


def save(checkpoints, state, step):
    checkpoints.save(step, state)
    checkpoints.wait()


@pytest.mark.slow
def test_resume_comes_before_init_from_and_this_before_scratch(
    open_run, folder, text_encoder, tmp_path
):
    """With a rate of 0: what was imported stands still bit for bit, and all else moves."""
    moved = shutil.copytree(folder, tmp_path / "moved")
    settings = warm(moved, rate=0.0)
    program = tiny_program(settings)
    scratch = flat(program.init().params)
    state, checkpoints = open_run(program)
    for name, array in flat(state.params).items():
        np.testing.assert_array_equal(array, text_encoder.get(name, scratch[name]), name)
    assert not np.array_equal(text_encoder["text_encoder/words"], scratch["text_encoder/words"])

    batch = program.place(random_batch(settings, settings.training.batch))
    state, _ = program.step(state, batch)
    save(checkpoints, state, 1)
    shutil.rmtree(moved)
    state, checkpoints = open_run(program)
    assert int(state.step) == 1
    before = flat(jax.device_get(state.params))
    state, _ = program.step(state, batch)
    for name, array in flat(jax.device_get(state.params)).items():
        assert np.array_equal(array, before[name]) == (name in text_encoder), name
    # The resumed run still knows what it began from.
    save(checkpoints, state, 2)
    origin = {"folder": str(moved), "parameters": len(text_encoder), **ORIGIN}
    assert load_meta(tmp_path / "run", 2).imported == origin


MESHES = pytest.mark.parametrize("mesh", [(), pytest.param((2, 2, 2), marks=pytest.mark.slow)])


@MESHES
def test_another_run_gives_its_best_parameters(mesh, other_run, tmp_path):
    """From one device to any mesh, each where the state has its place."""
    folder, best = other_run
    program = tiny_program(TINY, *mesh)
    weights, origin = read_init_from(folder, program.network, tokenizer(), program.mesh)
    state = program.init(weights)
    for name, array in flat(state.params).items():
        np.testing.assert_array_equal(array, best[name], name)
    placed = jax.tree.map(lambda x: x.sharding, state)
    assert placed == jax.tree.map(lambda x: x.sharding, program.abstract_state)
    assert int(state.step) == 0
    assert origin == {"folder": str(folder), "parameters": len(best), "step": 2}


@pytest.fixture
def other_run(tmp_path):
    """Its folder, and the parameters of the best of its three checkpoints."""
    program = tiny_program()
    checkpoints = Checkpoints(tmp_path, Meta.of(TINY, ["p"], tokenizer().fingerprint), keep=1)
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4)):
        state = program.init()
        params = jax.tree.map(lambda x, step=step: x + step, state.params)
        checkpoints.save(step, state._replace(params=params))
        checkpoints.record_loss(step, loss)
    checkpoints.close()
    return tmp_path, {n: x + 2 for n, x in flat(jax.device_get(program.init().params)).items()}


def test_another_run_must_be_of_these_words_and_sizes(other_run, tmp_path):
    folder, _ = other_run
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    other = Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"init_from: the vocabulary of .*data\.tokenizer"):
        read_init_from(folder, Network(TINY), other, MESH)
    model = dataclasses.replace(TINY.model, structure=s.Structure(heads=4))
    expected = r"init_from: .*structure/w1/bias has the shape \(2, 32\), ours is \(4, 32\)"
    with pytest.raises(UserError, match=expected):
        read_init_from(folder, Network(tiny_settings(model=model)), tokenizer(), MESH)


def test_a_run_from_scratch_says_so(open_run, tmp_path):
    state, checkpoints = open_run(tiny_program())
    save(checkpoints, state, 0)
    assert load_meta(tmp_path / "run").imported is None


def test_an_exported_model_comes_whole(tmp_path):
    model = export(tmp_path / "model", tiny_model())
    weights, origin = read_init_from(model, tiny_model(), tokenizer(), MESH)
    whole = flat(tiny_params(tiny_model()))
    assert weights.keys() == whole.keys()
    assert all(np.array_equal(weights[name], whole[name]) for name in whole)
    assert origin == {"folder": str(model), "parameters": len(whole), "step": 3}


@pytest.mark.slow
def test_on_any_mesh_weights_land_where_the_state_lies(folder, text_encoder):
    program = tiny_program(warm(folder, rate=0.5), 2, 4, 1)
    state = program.init(text_encoder)
    placed = jax.tree.map(lambda x: x.sharding, state)
    assert placed == jax.tree.map(lambda x: x.sharding, program.abstract_state)
    assert not state.params["text_encoder"]["words"].sharding.is_fully_replicated
    for name, array in text_encoder.items():
        np.testing.assert_array_equal(flat(state.params)[name], array, name)


def test_the_imported_rate_is_of_exactly_those_parameters():
    """AdamW's direction, decay included, with a rate of their own and without."""
    every = flat(tiny_params(tiny_model()))
    names = ("text_encoder/words", "text_encoder/norm/bias", "absent", "mlm_head/norm/bias")
    params = jax.device_put(nested({name: every[name] for name in names}))
    directions = []
    for rate in (1.0, 0.25):
        optimizer = make_optimizer(warm("x", rate).optimizer)
        state = mark_imported(optimizer.init(params), names[:2])
        _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        direction, _ = optimizer.update(params, state, params)
        directions.append(flat(direction))
    for name in names:
        factor = 0.25 if name in names[:2] else 1.0
        np.testing.assert_array_equal(directions[1][name], factor * directions[0][name], name)


def rewritten(change, text_encoder, folder, meta=ORIGIN):
    weights = dict(text_encoder)
    change(weights)
    write_weights(folder / WEIGHTS, nested(weights), meta)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update(more=np.zeros(2)), "unknown to the model, 1 of its .* such as more"),
        (lambda w: (w.clear(), w.update(x=np.zeros(2))), "1 of its 1 parameters, such as x"),
        (
            lambda w: w.update({"text_encoder/words": np.zeros((7, 32))}),
            r"text_encoder/words has the shape \(7, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_an_error(change, said, text_encoder, tmp_path):
    with pytest.raises(UserError, match=f"init_from: .*{said}"):
        read_init_from(rewritten(change, text_encoder, tmp_path), tiny_model(), tokenizer(), MESH)


def test_a_folder_of_others_or_none_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"init_from: nowhere has neither model\.safetensors nor"):
        read_init_from("nowhere", tiny_model(), tokenizer(), MESH)
    save_file({"bert.embeddings.LayerNorm.bias": np.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"python -m launch\.import_weights"):
        read_init_from(tmp_path, tiny_model(), tokenizer(), MESH)


def test_another_vocabulary_is_an_error(folder, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "other"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    said = rf"vocabulary of .* set --config\.data\.tokenizer={folder}"
    with pytest.raises(UserError, match=said):
        read_init_from(folder, tiny_model(), Tokenizer.load(tmp_path), MESH)


def test_a_rate_of_nothing_is_a_contradiction():
    with pytest.raises(UserError, match=r"optimizer\.imported_rate is 0\.5, but init_from"):
        warm("", rate=0.5)
