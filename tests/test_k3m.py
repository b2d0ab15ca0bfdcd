"""The whole model: absence, padding, masking, and batch rows that do not know of each other."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch

from k3m_jax import objectives
from k3m_jax.modalities.knowledge import CANDIDATE_ARRAYS
from k3m_jax.model.network import Network
from tests.tiny import TINY, tiny_settings

ROWS = 8


@functools.cache
def _network(mode="hard", dtype="float32"):
    model = dataclasses.replace(
        TINY.model, fusion=dataclasses.replace(TINY.model.fusion, mode=mode), dtype=dtype
    )
    network = Network(tiny_settings(model=model))
    params = jax.jit(network.init_params)(jax.random.key(0))
    return network, params, jax.jit(network.apply)


def _absent(batch, rows, *, title=False, image=False, knowledge=False):
    """`batch` with modalities taken away from `rows`; their arrays keep noise under the masks."""
    batch = {k: v.copy() for k, v in batch.items()}
    names = []
    if title:
        names += ["title_mask", "title_content", "mlm_weights"]
    if image:
        names += ["region_mask", "mom_weights"]
    if knowledge:
        names += ["knowledge_mask", "triple_mask", "link_value_weights", "link_item_weights"]
    for name in names:
        batch[name][rows] = 0
    return batch


@pytest.mark.parametrize("mode", ["mean", "soft", "hard", "interactive"])
@pytest.mark.parametrize("absent", list(itertools.product([False, True], repeat=3)))
def test_every_pattern_of_absence_gives_finite_outputs(mode, absent):
    network, params, apply = _network(mode)
    batch = random_batch(network.settings, ROWS)
    present = apply(params, batch).product.embedding
    flags = dict(zip(("title", "image", "knowledge"), absent, strict=True))
    missing = _absent(batch, slice(0, 3), **flags)
    outputs = apply(params, missing)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
    embedding = outputs.product.embedding
    np.testing.assert_array_equal(embedding[3:], present[3:])
    changed = not np.allclose(embedding[:3], present[:3], atol=1e-4)
    assert changed == any(absent)


def test_gradients_are_finite_with_everything_absent():
    network, params, _ = _network()
    batch = random_batch(network.settings, 4)
    batch = _absent(batch, slice(None), title=True, image=True, knowledge=True)
    active = objectives.active(network.settings)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        outputs = network.apply(params, batch, key=jax.random.key(0))
        results = objectives.sums(active, outputs, batch, None)
        return objectives.total(active, results, objectives.target_weights(active, batch))

    value, gradient = loss(params)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_absent_everywhere_is_the_learned_vector():
    network, params, apply = _network()
    batch = random_batch(network.settings, 4)
    batch = _absent(batch, slice(None), title=True, image=True, knowledge=True)
    embedding = apply(params, batch).product.embedding
    w3 = params["structure"]["w3"]
    expected = params["absent"] @ w3["kernel"] + w3["bias"]
    np.testing.assert_allclose(embedding, np.broadcast_to(expected, embedding.shape), atol=1e-6)


def test_where_the_other_modality_is_absent_the_initial_feature_stands_alone():
    network, params, apply = _network("soft")
    batch = random_batch(network.settings, 4)
    alone = _absent(batch, slice(None), image=True)
    without_interactor = {
        **params,
        "interactor": jax.tree.map(jnp.zeros_like, params["interactor"]),
    }
    np.testing.assert_array_equal(
        apply(params, alone).product.title, apply(without_interactor, alone).product.title
    )
    both = apply(params, batch).product.title
    assert not np.allclose(both, apply(without_interactor, batch).product.title, atol=1e-3)


def _noise_where_masked(batch):
    """Other numbers at every place that the masks say is not there."""
    rng = np.random.default_rng(9)
    batch = {k: v.copy() for k, v in batch.items()}
    for tokens, mask in (
        ("title_tokens", "title_mask"),
        ("knowledge_tokens", "knowledge_mask"),
        ("link_tokens", "link_mask"),
    ):
        noise = rng.integers(0, 60, batch[tokens].shape)
        batch[tokens] = np.where(batch[mask], batch[tokens], noise).astype(np.int32)
    gone = ~batch["region_mask"]
    batch["region_boxes"] = np.where(gone[..., None], 7.0, batch["region_boxes"]).astype(np.float32)
    noise = rng.integers(0, 256, batch["region_inputs"].shape).astype(np.uint8)
    batch["region_inputs"] = np.where(gone[:, 1:, None], noise, batch["region_inputs"])
    outside = ~batch["triple_mask"][..., None]
    for spans in ("property_spans", "value_spans"):
        batch[spans] = np.where(outside, np.array([0, 5]), batch[spans]).astype(np.int32)
    return batch


def _shortened(batch):
    """`batch` with the second half of each row's tokens, regions and triples masked away."""
    batch = {k: v.copy() for k, v in batch.items()}
    batch["title_mask"][:, 6:] = False
    batch["title_content"][:, 5:] = False
    batch["mlm_positions"][:] = 1
    batch["knowledge_mask"][:, 6:] = False
    batch["triple_mask"][:, 2:] = False
    batch["region_mask"][:, 3:] = False
    batch["mom_weights"][:, 2:] = 0
    batch["link_mask"][:, :, 4:] = False
    batch["link_value_spans"][:] = (2, 3)
    return batch


def test_padding_never_changes_a_result():
    network, params, apply = _network()
    batch = _shortened(random_batch(network.settings, ROWS))
    clean, noisy = apply(params, batch), apply(params, _noise_where_masked(batch))
    np.testing.assert_array_equal(clean.product.embedding, noisy.product.embedding)
    np.testing.assert_array_equal(clean.mlm_logits, noisy.mlm_logits)
    np.testing.assert_array_equal(clean.mom_prediction[:, :2], noisy.mom_prediction[:, :2])
    np.testing.assert_array_equal(clean.link_values, noisy.link_values)


def test_longer_padding_gives_the_same_embedding():
    network, params, apply = _network()
    batch = random_batch(network.settings, 4)
    lengths = dataclasses.replace(TINY.lengths, title=12, knowledge=16, triples=6)
    longer = Network(tiny_settings(lengths=lengths))
    padded = random_batch(longer.settings, 4)
    for name, value in batch.items():
        padded[name] = np.zeros_like(padded[name])
        padded[name][tuple(slice(0, n) for n in value.shape)] = value
    np.testing.assert_allclose(
        apply(params, batch).product.embedding,
        jax.jit(longer.embed)(params, padded),
        rtol=1e-5,  # sums over more (zero) terms, in another order
        atol=1e-5,
    )


@pytest.mark.parametrize("front_end", ["patches", "regions"])
def test_a_hidden_region_can_not_be_read_anywhere(front_end):
    image = dataclasses.replace(TINY.image, front_end=front_end, feature_dim=12)
    network = Network(tiny_settings(image=image))
    params = jax.jit(network.init_params)(jax.random.key(0))
    batch = random_batch(network.settings, 4)
    batch["region_hidden"][:] = False
    batch["region_hidden"][:, 1] = True
    other = {**batch, "region_inputs": batch["region_inputs"].copy()}
    other["region_inputs"][:, 1] = 255 - other["region_inputs"][:, 1]
    apply = jax.jit(network.apply)
    before, after = apply(params, batch), apply(params, other)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    other["region_inputs"][:, 2] = 255 - other["region_inputs"][:, 2]
    assert not np.allclose(before.product.embedding, apply(params, other).product.embedding)


def test_rows_do_not_know_of_each_other_and_a_batch_of_one_works():
    network, params, apply = _network()
    batch = random_batch(network.settings, ROWS)
    whole = apply(params, batch)
    for row in (0, 5):
        one = apply(params, {k: v[row : row + 1] for k, v in batch.items()})
        # Matrix products of other shapes sum in another order.
        np.testing.assert_allclose(
            one.product.embedding[0], whole.product.embedding[row], rtol=1e-4, atol=1e-5
        )


def test_evaluation_is_deterministic_and_training_is_noisy():
    network, params, apply = _network("hard")
    batch = random_batch(network.settings, 4)
    first, again = apply(params, batch), apply(params, batch, temperature=0.1)
    np.testing.assert_array_equal(first.product.embedding, again.product.embedding)
    noisy = apply(params, batch, key=jax.random.key(0)).product.embedding
    assert not np.allclose(first.product.embedding, noisy, atol=1e-3)


def test_bfloat16_activations_stay_near_float32_and_parameters_stay_float32():
    network, params, apply = _network("mean")
    half, _, half_apply = _network("mean", "bfloat16")
    shapes = jax.eval_shape(half.init_params, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    batch = random_batch(network.settings, 4)
    full, low = apply(params, batch), half_apply(params, batch)
    assert low.product.title.dtype == jnp.bfloat16
    assert low.product.embedding.dtype == low.mlm_logits.dtype == jnp.float32
    scale = np.abs(full.product.embedding).max()
    # 8 bits of mantissa through a dozen layers.
    np.testing.assert_allclose(low.product.embedding, full.product.embedding, atol=0.1 * scale)


def test_neither_heads_nor_the_embedding_are_rounded_to_bfloat16():
    _, params, _ = _network("mean")
    half, _, half_apply = _network("mean", "bfloat16")
    outputs = half_apply(params, random_batch(half.settings, 4))
    # Nor does structure aggregation the embedding: its residual is all that c* has without triples.
    for x in (outputs.mlm_logits, outputs.mom_prediction, outputs.product.embedding):
        rounded = x.astype(jnp.bfloat16).astype(jnp.float32)
        assert (x != rounded).mean() > 0.9


def test_more_triples_than_the_paper_ever_shows():
    lengths = dataclasses.replace(TINY.lengths, knowledge=512, triples=158)
    model = dataclasses.replace(TINY.model, positions=512)
    network = Network(tiny_settings(lengths=lengths, model=model))
    params = jax.jit(network.init_params)(jax.random.key(0))
    batch = random_batch(network.settings, 4)
    product = jax.jit(network.product)(params, batch)
    assert product.triple_attention.shape == (4, 2, 158)
    np.testing.assert_allclose(product.triple_attention.sum(-1), 1, rtol=1e-5)


def test_candidates_are_encoded_free_of_the_product():
    network, params, apply = _network()
    batch = random_batch(network.settings, 4)
    outputs = apply(params, batch)
    texts = {name: batch[f"link_{name}"][:, 1] for name in CANDIDATE_ARRAYS}
    p, v = jax.jit(network.encode_candidates)(params, texts)
    np.testing.assert_allclose(outputs.link_properties[:, 1], p, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs.link_values[:, 1], v, rtol=1e-4, atol=1e-5)


def test_without_heads_nothing_is_aggregated():
    structure = dataclasses.replace(TINY.model.structure, heads=0)
    network = Network(tiny_settings(model=dataclasses.replace(TINY.model, structure=structure)))
    params = jax.jit(network.init_params)(jax.random.key(0))
    assert "structure" not in params
    batch = random_batch(network.settings, ROWS)
    embed = jax.jit(network.product)
    product = embed(params, batch)
    assert product.triple_attention.shape == (ROWS, 0, batch["triple_mask"].shape[1])
    without = embed(params, _absent(batch, slice(None), knowledge=True))
    np.testing.assert_array_equal(product.embedding, without.embedding)
    _, whole_params, apply = _network()
    assert not np.array_equal(product.embedding, apply(whole_params, batch).product.embedding)
