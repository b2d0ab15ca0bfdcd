import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import TINY, tiny_program, tiny_settings

from k3m_jax.model.network import Network, params_and_axes
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.placement import place_batch
from k3m_jax.parallel.shardings import MAX_REPLICATED, constrain, param_shardings
from k3m_jax.settings import Mesh, Settings, UserError

MESH = Mesh(data=2, fsdp=2, tensor=2)


def shardings_of(mesh, **params):
    """Of parameters, each a shape and the names of its axes."""
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (shape, _) in params.items()}
    return param_shardings(
        make_mesh(mesh), arrays, {name: axes for name, (_, axes) in params.items()}
    )


def test_parameters_are_split_as_the_table_says():
    text = shardings_of_network(TINY, MESH)[1]["text_encoder"]
    assert text["words"].spec == PartitionSpec("tensor", "fsdp")
    query = text["layers"]["layer"]["attention"]["query"]["kernel"]
    assert query.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert text["norm"]["scale"].spec == PartitionSpec(None)


def test_of_two_dimensions_for_one_axis_the_upper_line_gets_it():
    found = shardings_of(MESH, map=((8, 8), ("image_embed", "embed")))
    assert found["map"].spec == PartitionSpec(None, "fsdp")


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_optimizer_follows_its_parameters(rate):
    """With marks of imported parameters, too, which are scalars."""
    optimizer = dataclasses.replace(TINY.optimizer, imported_rate=rate)
    settings = tiny_settings(optimizer=optimizer, init_from="weights")
    state = tiny_program(settings, 2, 2, 2).abstract_state
    shardings = jax.tree.map(lambda x: x.sharding, state)
    adam = next(part for part in shardings.opt_state if hasattr(part, "mu"))
    assert adam.mu == shardings.params == adam.nu
    scalars = [x.sharding for x in jax.tree.leaves(state) if not x.ndim]
    assert len(scalars) > 2
    assert all(sharding.is_fully_replicated for sharding in scalars)


def test_large_models_are_hardly_replicated():
    settings = Settings().resolved(vocabulary=21128, classes=1600)
    params, shardings = shardings_of_network(settings, Mesh(data=1, fsdp=4, tensor=2))
    sizes = [x.size for x in jax.tree.leaves(params)]
    whole = [sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings)]
    assert np.dot(sizes, whole) < MAX_REPLICATED * sum(sizes)


def test_an_array_without_names_is_refused():
    with pytest.raises(ValueError, match=r"kernel.* no logical axes"):
        params_and_axes({"layer": {"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}})


def test_a_name_outside_the_table_is_refused():
    with pytest.raises(UserError, match=r"kernel: the axis 'embd' is not in RULES"):
        shardings_of(MESH, kernel=((4, 4), ("embd", "mlp")))


def test_a_dimension_that_does_not_divide_names_the_key():
    with pytest.raises(UserError, match=r"words: .*'vocab' of size 61 .*mesh\.tensor 2"):
        shardings_of(MESH, words=((61, 4), ("vocab", "embed")))
    with pytest.raises(UserError, match=r"change mesh\.fsdp or model\.text\.width"):
        shardings_of(MESH, words=((60, 5), ("vocab", "embed")))


def test_what_every_device_holds_is_limited():
    shape = (1024, 1024)
    params = {"split": (shape, ("embed", "mlp")), "whole": (shape, ("features", "width"))}
    with pytest.raises(UserError, match=r"50\.0% .* whole the largest"):
        shardings_of(MESH, **params)
    shardings_of(Mesh(), **params)  # nothing is promised where only rows are split


@pytest.mark.parametrize("inside", [False, True])
def test_a_constraint_with_an_unknown_name_is_an_error(inside):
    mesh = jax.set_mesh(make_mesh(MESH)) if inside else contextlib.nullcontext()
    with mesh, pytest.raises(ValueError, match="lenght"):
        jax.jit(lambda x: constrain(x, "batch", "lenght"))(jnp.zeros((4, 4)))


def shardings_of_network(settings, mesh):
    network = Network(settings)
    params = jax.eval_shape(network.init_params, jax.random.key(0))
    return params, param_shardings(make_mesh(mesh), params, network.param_axes())


def test_batches_are_cut_into_blocks_of_rows():
    mesh = make_mesh(MESH)
    rows = np.arange(8)
    placed = place_batch(mesh, {"x": rows})["x"]
    np.testing.assert_array_equal(placed, rows)
    blocks = {tuple(np.asarray(shard.data)) for shard in placed.addressable_shards}
    assert blocks == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_blocks_of_a_process_go_where_they_belong(monkeypatch):
    """Of a process that hands its four blocks over in another order than the devices'."""
    monkeypatch.setattr("k3m_jax.parallel.placement.process_blocks", lambda mesh: ((2, 0, 3, 1), 4))
    for mesh in (MESH, Mesh(data=4, fsdp=2, tensor=1)):
        placed = place_batch(make_mesh(mesh), {"x": np.arange(16).reshape(8, 2)})["x"]
        expected = np.arange(16).reshape(4, 2, 2)[[1, 3, 0, 2]].reshape(8, 2)
        np.testing.assert_array_equal(placed, expected)


def test_a_batch_that_can_not_be_cut_names_the_keys():
    with pytest.raises(UserError, match=r"6 rows .* 4 equal blocks: change evaluation\.batch"):
        place_batch(make_mesh(MESH), {"x": np.arange(6)})


def test_tiny_settings_are_complete():
    assert TINY.model.vocabulary
    assert TINY.image.classes
