import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import TINY, tiny_settings

from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.rules import RULES
from k3m_jax.parallel.shardings import MAX_REPLICATED, abstract_tree, place_batch, tree_shardings
from k3m_jax.settings import Mesh, Settings, UserError
from k3m_jax.training.state import init_state

MESH = Mesh(data=2, fsdp=2, tensor=2)


def box(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.fixture(scope="module")
def abstract_state():
    return jax.eval_shape(lambda: init_state(Network(tiny_settings()), 0))


def test_parameters_are_split_as_the_table_says(abstract_state):
    shardings = tree_shardings(make_mesh(MESH), abstract_state).params
    text = shardings["text_encoder"]
    assert text["words"].spec == PartitionSpec("tensor", "fsdp")
    query = text["layers"]["layer"]["attention"]["query"]["kernel"]
    assert query.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert text["norm"]["scale"].spec == PartitionSpec(None)


def test_of_two_dimensions_for_one_axis_the_upper_line_gets_it():
    tree = {"map": box((8, 8), "image_embed", "embed")}
    assert tree_shardings(make_mesh(MESH), tree)["map"].spec == PartitionSpec(None, "fsdp")


def test_the_optimizer_follows_its_parameters(abstract_state):
    shardings = tree_shardings(make_mesh(MESH), abstract_state)
    adam = next(part for part in shardings.opt_state if hasattr(part, "mu"))
    assert adam.mu == shardings.params == adam.nu
    assert shardings.step.is_fully_replicated


def test_large_models_are_hardly_replicated():
    network = Network(Settings().resolved(vocabulary=21128, classes=1600))
    boxed = jax.eval_shape(lambda: network.init_params(jax.random.key(0)))
    mesh = make_mesh(Mesh(data=1, fsdp=4, tensor=2))
    arrays = jax.tree.leaves(abstract_tree(mesh, boxed))
    whole = sum(x.size for x in arrays if x.sharding.is_fully_replicated)
    assert whole < MAX_REPLICATED * sum(x.size for x in arrays)


def test_an_array_without_names_is_refused():
    tree = {"layer": {"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}}
    with pytest.raises(UserError, match=r"layer/kernel .* no logical axes"):
        tree_shardings(make_mesh(MESH), tree)


def test_a_name_outside_the_table_is_refused():
    with pytest.raises(UserError, match=r"kernel: the axis 'embd' is not in .*rules\.py"):
        tree_shardings(make_mesh(MESH), {"kernel": box((4, 4), "embd", "mlp")})


def test_a_dimension_that_does_not_divide_names_the_key():
    with pytest.raises(UserError, match=r"words: .*'vocab' of size 61 .*mesh\.tensor 2"):
        tree_shardings(make_mesh(MESH), {"words": box((61, 4), "vocab", "embed")})
    with pytest.raises(UserError, match=r"change mesh\.fsdp or model\.text\.width"):
        tree_shardings(make_mesh(MESH), {"words": box((60, 5), "vocab", "embed")})


def test_what_every_device_holds_is_limited():
    tree = {
        "cut": box((1024, 1024), "embed", "mlp"),
        "whole": box((1024, 1024), "features", "width"),
    }
    with pytest.raises(UserError, match=r"50\.0% .* whole the largest"):
        tree_shardings(make_mesh(MESH), tree)
    tree_shardings(make_mesh(Mesh()), tree)  # nothing is promised where only rows are spread


def test_each_axis_has_one_rule():
    names = [rule.logical for rule in RULES]
    assert len(names) == len(set(names))


def test_batches_are_cut_into_blocks_of_rows():
    mesh = make_mesh(MESH)
    rows = np.arange(8)
    placed = place_batch(mesh, {"x": rows})["x"]
    np.testing.assert_array_equal(placed, rows)
    blocks = {tuple(np.asarray(shard.data)) for shard in placed.addressable_shards}
    assert blocks == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_blocks_of_a_process_go_where_they_belong(monkeypatch):
    """Of a process that hands its four blocks over in another order than the devices'."""
    monkeypatch.setattr("k3m_jax.parallel.shardings.process_blocks", lambda mesh: ((2, 0, 3, 1), 4))
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
