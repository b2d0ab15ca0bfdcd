"""Faults of the public release that the `paper` preset does not have.

Those that other files hold, each next to what it is about:

    padding leaks into the pooling         test_k3m: padding_never_changes_a_result,
                                           longer_padding_gives_the_same_embedding
    fusion is random at evaluation         test_k3m: evaluation_is_deterministic_…
    hard choices stay near chance          test_fusion: logits_are_not_squashed_…
    a batch of one crashes                 test_k3m: …_a_batch_of_one_works, and here
    MOM is NaN with nothing masked         test_objectives: without_targets_the_loss_is_0_…
    more than 10 triples break a batch     test_pipeline: an_item_of_158_triples_…, test_k3m:
                                           more_triples_than_the_paper_ever_shows

The others are here.
"""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretrained import HF_BERT, bert_settings, rewritten
from random_batch import random_batch
from safetensors.numpy import load_file
from tiny import TINY, tiny_settings

from k3m_jax import objectives
from k3m_jax.data.input.pipeline import train_items
from k3m_jax.modalities.knowledge import Knowledge
from k3m_jax.model.interaction import StructureAggregation
from k3m_jax.model.network import Network
from k3m_jax.objectives.base import safe_ratio
from k3m_jax.objectives.link_prediction import LinkPrediction
from k3m_jax.pretrained.importing import read_params
from k3m_jax.settings import LinkPrediction as Options
from k3m_jax.settings import Structure, UserError
from tests.products import (
    NO_PICTURE,
    having,
    inputs,
    memory_shards,
    products,
    settings_for,
    tokenizer,
)

RNG = np.random.default_rng(0)


def test_an_item_without_triples_has_nothing_of_the_item_before_it():
    c, p, v = (jnp.asarray(RNG.normal(size=(4, *n, 8)), jnp.float32) for n in ((), (3,), (3,)))
    mask = jnp.array([[True] * 3, [False] * 3, [True] * 3, [True] * 3])
    module = StructureAggregation(Structure(heads=2), jnp.float32)
    params = nn.unbox(module.init(jax.random.key(0), c, p, v, mask))
    first, _ = module.apply(params, c, p, v, mask)
    order = jnp.array([2, 1, 0, 3])  # another item before it, and another after it
    moved, _ = module.apply(params, c[order], p[order], v[order], mask[order])
    np.testing.assert_allclose(moved[1], first[1], rtol=1e-6)
    other, _ = module.apply(params, c, p[::-1], v[::-1], mask)  # nor of what fills its places
    np.testing.assert_allclose(other[1], first[1], rtol=1e-6)
    assert not np.allclose(other[0], first[0], rtol=1e-2)


@pytest.mark.slow
def test_a_batch_of_one_is_learned_from():
    settings = tiny_settings(objectives=dataclasses.replace(TINY.objectives, group=1))
    network, active = Network(settings), objectives.active(settings)
    params = jax.jit(network.init_params)(jax.random.key(0))
    batch = random_batch(settings, 1)

    @jax.jit
    def learn(params):
        outputs = network.apply(params, batch)
        sums = objectives.sums(active, outputs, batch, None)
        return objectives.total(active, sums, objectives.target_weights(active, batch))

    loss, gradient = jax.value_and_grad(learn)(params)
    assert 0 < loss < 100
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["text_encoder"]["norm"]))


def test_weights_of_which_none_would_be_taken_are_refused(tmp_path):
    """The release offers BERT's 197 tensors under names of which its model has none."""
    count = len(load_file(HF_BERT / "model.safetensors"))
    assert len(read_params("bert", HF_BERT, bert_settings()).used) == count

    def renamed(tensors):
        return {f"{name}_of_another": tensor for name, tensor in tensors.items()}

    with pytest.raises(UserError, match="BERT"):
        read_params("bert", rewritten(tmp_path, tensors=renamed), bert_settings())


def test_items_without_a_picture_are_trained_on():
    records = [
        having(item, image=NO_PICTURE) if i % 2 else item for i, item in enumerate(products(8))
    ]
    given = inputs(memory_shards(records))
    items = train_items(settings_for(given), given)
    epoch = [items[i] for i in range(8)]
    assert {example.view.record.id for example in epoch} == {item.id for item in records}
    assert sum(not len(example.encoded["image"].inputs) for example in epoch) == 4


@pytest.mark.parametrize("value", ["1:2", "1;2", ";", "colour:red;", ":;:;"])
def test_no_character_of_a_value_breaks_a_triple(value):
    triples = [("brand", "norda"), ("colour", value), ("fibre", "wool")]
    text = Knowledge(48, 8, None).encode({"knowledge": triples}, tokenizer(), {})
    found = [
        tuple(text.tokens[slice(*span)] for span in spans)
        for spans in zip(text.property_spans, text.value_spans, strict=True)
    ]
    assert found == [tuple(map(tokenizer().encode_term, triple)) for triple in triples]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_no_test_of_the_product_alone_can_tell_negatives(norm):
    """An energy that looks at c alone does not get below the margin.

    False values stand next to the very same c, and each product serves as a false one as often as
    it is the true one.
    """
    B, margin = 4, 1.0
    c = jnp.asarray(RNG.normal(size=(B, 8)) * np.arange(1, B + 1)[:, None], jnp.float32)
    nothing = jnp.zeros((B, 3, 8))  # p = v: what is left of the energy is the norm of c
    product = types.SimpleNamespace(embedding=c)
    outputs = types.SimpleNamespace(product=product, link_properties=nothing, link_values=nothing)
    items = (jnp.arange(B)[:, None] + 1) % B

    def loss(value_weight, item_weight):
        batch = {
            "link_value_weights": jnp.full((B, 2), value_weight),
            "link_items": items,
            "link_item_weights": jnp.full((B, 1), item_weight),
        }
        objective = LinkPrediction(Options(margin=margin, norm=norm), length=6, group=B)
        return tuple(safe_ratio(*x) for x in objective.sums(outputs, batch, None).values())

    assert loss(1.0, 0.0) == (margin, 0.0)
    assert loss(0.0, 1.0)[0] >= margin
