"""Regions of pictures, of both front ends; a damaged picture counts as absent."""

import dataclasses

import numpy as np
import pytest

from k3m_jax.data.input.batch import BatchLayout, ExampleBuilder
from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.picture import Picture, PictureModality
from k3m_jax.modalities.pixels import decode, patchify
from tests.products import NO_PICTURE, collated, detected, examples_of, jpeg, record, tokenizer
from tests.tiny import DETECTED, TINY

CLASSES = np.arange(4, dtype=np.int32)


def encode(picture, settings):
    return PictureModality.from_settings(settings).encode({"image": picture}, None, {})


def changed(picture, **fields):
    return dataclasses.replace(picture, **fields)


def test_a_picture_becomes_its_patches_each_of_one_class():
    regions = encode(Picture(jpeg(1), CLASSES + 1), TINY)
    np.testing.assert_array_equal(regions.inputs, patchify(decode(jpeg(1)), 4))
    assert regions.inputs.dtype == np.uint8
    assert regions.boxes[1].tolist() == [0.5, 0, 1, 0.5]
    assert regions.class_ids[:, 0].tolist() == [1, 2, 3, 4]
    assert (regions.class_probs == 1).all()


def test_another_photograph_has_patches_of_unknown_class():
    assert not encode(Picture(jpeg(1)), TINY).class_probs.any()


def test_detected_regions_are_normalised_and_the_most_confident_kept():
    picture = detected(1, boxes=9)
    regions = encode(picture, DETECTED)
    confidence = picture.class_probs.max(1).astype(float)
    kept = np.sort(np.argsort(-confidence, kind="stable")[:4])
    np.testing.assert_array_equal(regions.inputs, picture.features[kept])
    np.testing.assert_array_equal(regions.boxes, picture.boxes[kept])
    np.testing.assert_allclose(regions.class_probs.sum(1), 1, rtol=1e-6)
    assert regions.class_probs.dtype == np.float32


def test_only_the_most_probable_classes_are_kept():
    one = dataclasses.replace(DETECTED, image=dataclasses.replace(DETECTED.image, top_classes=1))
    picture = detected(1)
    ids, probs = picture.class_ids[:, ::-1], picture.class_probs[:, ::-1]
    regions = encode(changed(picture, class_ids=ids, class_probs=probs), one)
    np.testing.assert_array_equal(regions.class_ids[:, 0], picture.class_ids[:, 0])
    assert (regions.class_probs == 1).all()
    none = changed(picture, class_ids=ids[:, :0], class_probs=probs[:, :0])
    assert encode(none, DETECTED).class_probs.shape == (4, 0)


def test_a_batch_of_detected_regions():
    pictures = [detected(i, boxes=n) for i, n in enumerate((5, 2, 4, 0))]
    records = [record(i, [], picture=picture) for i, picture in enumerate(pictures)]
    batch = collated(examples_of(records, DETECTED), DETECTED)
    assert batch["region_mask"].sum(1).tolist() == [5, 3, 5, 0]
    np.testing.assert_array_equal(batch["region_inputs"][1, :2], pictures[1].features)
    valid = batch["region_mask"][:, 1:]
    np.testing.assert_allclose(batch["class_probs"].sum(-1), valid, rtol=1e-6)
    assert not (batch["mom_weights"].astype(bool) | batch["region_hidden"])[~valid].any()
    boxes = batch["region_boxes"]
    assert (boxes[:, 0] == (0, 0, 1, 1, 1)).all()
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    np.testing.assert_allclose(boxes[..., 4], area, rtol=1e-6)


NAN = np.float32("nan")
ABSENT = [(TINY, NO_PICTURE), (DETECTED, NO_PICTURE), (DETECTED, detected(1, boxes=0))]
DAMAGED = {
    "cut off": (TINY, Picture(jpeg(1)[:100], CLASSES)),
    "no picture": (TINY, Picture(b"no picture", CLASSES)),
    "another size": (TINY, Picture(jpeg(1, 16), CLASSES)),
    "too few classes": (TINY, Picture(jpeg(1), CLASSES[:3])),
    "features not finite": (DETECTED, changed(detected(1), features=detected(1).features * NAN)),
    "boxes not finite": (DETECTED, changed(detected(1), boxes=detected(1).boxes * NAN)),
    "another width": (DETECTED, detected(1, width=5)),
}


@pytest.mark.parametrize(
    ("settings", "picture", "errors"),
    [*((*each, 0) for each in ABSENT), *((*each, 1) for each in DAMAGED.values())],
    ids=["none", "no regions", "no boxes", *DAMAGED],
)
def test_a_damaged_picture_counts_as_absent_and_is_logged(settings, picture, errors, monkeypatch):
    logged = []
    monkeypatch.setattr("absl.logging.log_every_n", lambda *args: logged.append(args[3:5]))
    item = record(1, [("colour", "red"), ("brand", "norda")], picture=picture)
    layout = BatchLayout.of(settings)
    vocabulary = ValueVocabulary.merge([{"colour": {"red": 1}}])
    build = ExampleBuilder(layout, tokenizer(), vocabulary, training=True)
    example = build(ItemView.of(item), np.random.default_rng(0))
    batch = layout.collate([example, None, None, None])
    assert logged == [("image", "id1")] * errors
    assert not batch["region_mask"].any()
    assert not batch["mom_weights"].any()
    assert batch["title_mask"][0].any()
    assert batch["triple_mask"][0].any()
    if errors:
        strict = ExampleBuilder(layout, tokenizer(), vocabulary, training=True, strict=True)
        with pytest.raises(Exception, match=r"."):
            strict(ItemView.of(item), np.random.default_rng(0))
