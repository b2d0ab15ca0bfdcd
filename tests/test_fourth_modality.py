"""A modality and an objective of one's own: defined here, registered, and that is all.

docs/extending.md walks through the same.
"""

import dataclasses
import json
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from k3m_jax import modalities, objectives
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.data.input.pipeline import open_inputs, train_batches
from k3m_jax.data.records import ItemView
from k3m_jax.modalities.base import Array, TextModality
from k3m_jax.model import k3m
from k3m_jax.model.network import Network
from k3m_jax.objectives.base import Objective, weighted_sum
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.serving import export, from_pretrained
from k3m_jax.settings import Data, Task, UserError
from k3m_jax.tasks.base import TaskRow, shown
from k3m_jax.training.flops import forward_flops
from k3m_jax.training.trainer import Trainer
from tests.tiny import TINY


@dataclasses.dataclass(frozen=True)
class Reviews(TextModality):
    """What customers wrote: one text."""

    name: ClassVar[str] = "reviews"
    keys: ClassVar[tuple[str, ...]] = ("reviews",)

    @classmethod
    def from_settings(cls, settings):
        return cls(length=8)


class ReviewStream(nn.Module):
    """Reviews through the model's own text encoder."""

    settings: Any
    numerics: Any

    def __call__(self, batch, text_encoder):
        (hidden,) = text_encoder((batch["reviews_tokens"], batch["reviews_mask"]))
        return hidden, batch["reviews_mask"]


@dataclasses.dataclass(frozen=True)
class Length(Objective):
    """Holds the embeddings of reviewed products at length 1."""

    name: ClassVar[str] = "length"
    weight: ClassVar[float] = 0.5
    weight_arrays: ClassVar[tuple[str, ...]] = ("length_weights",)

    @classmethod
    def from_settings(cls, settings):
        return cls()

    @property
    def arrays(self):
        return {"length_weights": Array((), np.float32, "1 where there are reviews")}

    def write(self, row, target, encoded):
        row["length_weights"][...] = len(encoded["reviews"].tokens) > 0

    def sums(self, outputs, batch, key):
        distance = jnp.square(jnp.linalg.norm(outputs.product.embedding, axis=-1) - 1)
        return {"length": weighted_sum(distance, batch["length_weights"])}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Six products, three of them with reviews."""
    path = tmp_path_factory.mktemp("catalog")
    rng = np.random.default_rng(0)
    with (path / "products.jsonl").open("w") as file:
        for number in range(6):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"{number}.png")
            colours = (("colour", ("red", "blue")[number % 2]), ("size", "small"))
            line = {
                "id": number,
                "title": "a thing",
                "images": [f"{number}.png"],
                "triples": colours,
                "split": "train",
            }
            if number % 2:
                line["reviews"] = "marvellous marvellous stitching"
            file.write(json.dumps(line) + "\n")
    return path


def built(catalog, output):
    arguments = BuildArguments(
        "jsonl", str(catalog), str(output), image_size=8, patch_size=4, vocabulary_size=200
    )
    return build(arguments)


def first_step(shards):
    """Settings, batch and metrics of a run that knows nothing of reviews."""
    inputs = open_inputs(Data(sources=(str(shards.folder),)))
    settings = resolved(inputs)
    return metrics_of(settings, inputs, steps=1)[1]


def resolved(inputs, **extra):
    model = dataclasses.replace(TINY.model, vocabulary=0, extra_modalities=extra.get("model", ()))
    image = dataclasses.replace(TINY.image, classes=0)
    goals = dataclasses.replace(TINY.objectives, extra=extra.get("objectives", ()), group=2)
    training = dataclasses.replace(TINY.training, batch=4)
    evaluation = dataclasses.replace(TINY.evaluation, batch=4)
    return inputs.resolve(
        dataclasses.replace(
            TINY,
            model=model,
            image=image,
            objectives=goals,
            training=training,
            evaluation=evaluation,
        )
    )


def metrics_of(settings, inputs, steps):
    """The state after some steps, and the last one's metrics."""
    trainer = Trainer(Network(settings), make_mesh(settings.mesh))
    state, batches = trainer.init(), train_batches(settings, inputs)
    for _ in range(steps):
        state, metrics = trainer.step(state, trainer.place(next(batches)))
    batches.close()
    return state, jax.device_get(metrics)


@pytest.fixture(scope="module")
def without(catalog, tmp_path_factory):
    """The shards and a first step of before there were reviews."""
    shards = built(catalog, tmp_path_factory.mktemp("without"))
    return shards, first_step(shards)


@pytest.fixture(scope="module")
def reviewed(without, catalog, tmp_path_factory):
    """The same catalog, built with the modality registered; it stays so for the module."""
    modalities.REGISTRY["reviews"] = Reviews
    objectives.REGISTRY["length"] = Length
    k3m.STREAMS["reviews"] = ReviewStream
    yield built(catalog, tmp_path_factory.mktemp("with"))
    for registry, name in (
        (modalities.REGISTRY, "reviews"),
        (objectives.REGISTRY, "length"),
        (k3m.STREAMS, "reviews"),
    ):
        del registry[name]


@pytest.fixture(scope="module")
def trained(reviewed):
    inputs = open_inputs(Data(sources=(str(reviewed.folder),)))
    settings = resolved(inputs, model=("reviews",), objectives=("length",))
    return settings, inputs, *metrics_of(settings, inputs, steps=2)


def test_a_build_stores_counts_and_reads_it(reviewed):
    records = list(reviewed.source("train"))
    assert sorted(r.contents["reviews"] for r in records)[:3] == ["", "", ""]
    assert reviewed.info.missing["reviews"] == 3
    words = (reviewed.tokenizer_folder / "tokenizer.json").read_text()
    assert "marvellous" in words


def test_shards_of_before_are_read_and_keep_their_fingerprint(without, reviewed, tmp_path):
    old, _ = without
    inputs = open_inputs(Data(sources=(str(old.folder),)))
    assert {r.contents["reviews"] for r in inputs.shard_sets[0].source("train")} == {""}
    plain = tmp_path / "plain"
    plain.mkdir()
    lines = [{"id": i, "title": "a thing", "split": "train"} for i in range(3)]
    (plain / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    again = built(plain, tmp_path / "again")
    del modalities.REGISTRY["reviews"]
    try:
        assert built(plain, tmp_path / "before").info.fingerprint == again.info.fingerprint
    finally:
        modalities.REGISTRY["reviews"] = Reviews


def test_a_model_without_it_takes_a_bit_identical_first_step(without, reviewed):
    shards, before = without
    after = first_step(shards)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_two_steps_train_the_objective(trained):
    _, _, state, metrics = trained
    assert int(state.step) == 2
    assert np.isfinite(metrics["length_loss"])
    parts = [metrics[f"{name}_loss"] for name in ("mlm", "mom", "lpm")]
    np.testing.assert_allclose(
        metrics["loss"], sum(parts) + 0.5 * metrics["length_loss"], rtol=1e-5
    )


def test_its_text_is_in_the_flops(trained):
    settings = trained[0]
    model = dataclasses.replace(settings.model, extra_modalities=())
    plain = dataclasses.replace(settings, model=model)
    assert forward_flops(settings) > forward_flops(plain)


def test_a_side_that_shows_the_picture_alone_does_not_leak_it(reviewed):
    record = next(r for r in reviewed.source("train") if r.contents["reviews"])
    view = shown(ItemView.of(record), TaskRow.of(Task(shown=("image",)), 0, record))
    assert view.visible["reviews"] == view.visible["title"] == ""
    assert view.visible["image"].jpeg


def test_it_is_embedded_and_exported(trained, tmp_path):
    settings, inputs, state, _ = trained
    export.write(
        tmp_path / "model",
        Network(settings),
        jax.device_get(state.params),
        inputs.tokenizer,
        platforms=(),
        origin={},
        card="",
    )
    model = from_pretrained(tmp_path / "model")
    plain = model.record("1", title="a thing")
    praised = model.record("1", title="a thing", reviews="marvellous")
    vectors = model.embed([plain, praised])
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    assert "reviews_tokens" in BatchLayout.for_inference(settings).products


@pytest.mark.parametrize("key", ["model.extra_modalities", "objectives.extra"])
def test_a_name_that_is_not_registered_is_refused(without, key):
    inputs = open_inputs(Data(sources=(str(without[0].folder),)))
    group = key.split(".")[0]
    with pytest.raises(UserError, match=key):
        resolved(inputs, **{group: ("nothing",)})
