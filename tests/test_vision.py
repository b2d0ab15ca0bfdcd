"""Models of Hugging Face with random weights, saved to a folder and read back: no network."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from k3m_jax.data.catalog.region_features import make_regions
from k3m_jax.settings import UserError
from tests.conftest import ROOT
from tests.eyes import write_dump

torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
import transformers as t  # noqa: E402

from k3m_jax.pretrained.vision import grid, open_backbone, open_identical  # noqa: E402

pytestmark = pytest.mark.slow
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
WORDS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
MAPS = {"depths": [1, 1], "hidden_sizes": [4, 8]}
NARROW = {"embedding_size": 4, "layer_type": "basic", **MAPS}


def detr():
    seen = t.ResNetConfig(**NARROW, out_features=["stage2"])
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in SIDES.items()}
    config = t.DetrConfig(
        backbone_config=seen, d_model=16, num_queries=40, num_labels=5, **NO_TIMM, **sizes
    )
    return t.DetrForObjectDetection(config)


SIDES = {"layers": 1, "ffn_dim": 16, "attention_heads": 2}
NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
TOWERS = {"text_config": WORDS, "vision_config": VISION}
MODELS = {
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=5)),
    "vit_without_pooler": lambda: t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False),
    "dinov2": lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**VISION, num_labels=5)),
    "clip": lambda: t.CLIPModel(t.CLIPConfig(**TOWERS)),
    "clip_vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)),
    "siglip": lambda: t.SiglipModel(t.SiglipConfig(**TOWERS)),
    "convnext": lambda: t.ConvNextForImageClassification(
        t.ConvNextConfig(**MAPS, num_stages=2, num_labels=5)
    ),
    "resnet": lambda: t.ResNetForImageClassification(t.ResNetConfig(**NARROW, num_labels=5)),
    "detr": detr,
}
CLASSIFIERS = ("vit", "dinov2", "convnext", "resnet")
SCALING = {
    "image_processor_type": "ViTImageProcessor",
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 32, "width": 32},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each model."""
    root = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps(SCALING))
    return root


def pictures(count=2, size=32):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def whole(model):
    """Whether it has a vector of its own for the whole picture."""
    return model not in ("convnext", "resnet")


@pytest.mark.parametrize("model", [name for name in MODELS if name != "detr"])
def test_a_grid_of_cells_and_the_whole_picture(folders, model):
    backbone = open_backbone(str(folders / model), grid=2)
    assert (backbone.identity.size, backbone.identity.grid) == (32, 2)
    found = backbone(pictures())
    assert len(found) == 2
    n, width = 4 + whole(model), 16 if whole(model) else 8
    for raw in found:
        assert raw["features"].shape == (n, width)
        assert raw["features"].dtype == np.float16
        assert raw["boxes"][n - 4 :].tolist() == [
            [0, 0, 16, 16],
            [16, 0, 32, 16],
            [0, 16, 16, 32],
            [16, 16, 32, 32],
        ]
        assert ("cls_prob" in raw) == (model in CLASSIFIERS)
        assert len(make_regions(raw, 36, 3).boxes) == n
    (alone,) = backbone(pictures()[1:])
    np.testing.assert_allclose(alone["features"], found[1]["features"], atol=2e-3)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "detr"])
def test_cells_lie_where_their_pixels_are(folders, model):
    backbone = open_backbone(str(folders / model), grid=4)
    picture = pictures(1)
    changed = picture.copy()
    changed[0, 24:, :8] = 255 - changed[0, 24:, :8]  # cell 12
    before, after = (backbone(x)[0]["features"][-16:] for x in (picture, changed))
    assert np.abs(after.astype(float) - before).max(1).argmax() == 12


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_classes_of_a_picture_are_the_classifiers_own(folders, model):
    """Of the whole picture, or of a grid of one cell."""
    folder = str(folders / model)
    network = t.AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = torch.tensor(pictures()).permute(0, 3, 1, 2) / 255
    scale = (torch.tensor(SCALING[name])[:, None, None] for name in ("image_mean", "image_std"))
    mean, std = scale
    with torch.no_grad():
        expected = network(((pixels - mean) / std).float()).logits.softmax(-1).numpy()
    found = open_backbone(folder, grid=1)(pictures())
    np.testing.assert_allclose([raw["cls_prob"][0] for raw in found], expected, atol=1e-3)


def test_a_detector_finds_boxes_of_its_own(folders):
    backbone = open_backbone(str(folders / "detr"), size=64)
    (raw, _) = backbone(pictures(size=64))
    assert raw["boxes"].shape == (36, 4)  # of 40 queries
    assert raw["features"].shape == (36, 16)
    assert raw["cls_prob"].shape == (36, 5)
    assert (raw["cls_prob"].sum(1) < 1).all()  # the rest is "no object"
    assert ((raw["boxes"] >= 0) & (raw["boxes"] <= 64)).all()
    assert len(make_regions(raw, 36, 3).boxes) == 36
    with pytest.raises(UserError, match=r"--grid: .* detector"):
        open_backbone(str(folders / "detr"), grid=2)


def test_another_size_than_it_was_trained_with(folders):
    for model in ("vit", "dinov2", "clip", "siglip", "resnet"):
        backbone = open_backbone(str(folders / model), size=64)
        assert backbone.identity.grid == 7  # of 8
        assert len(backbone(pictures(size=64))[0]["boxes"]) == 49 + whole(model)
    with pytest.raises(UserError, match="--size: 36 is not a multiple"):
        open_backbone(str(folders / "vit"), size=36)
    with pytest.raises(UserError, match=r"--grid: 5 cells a side, but .* 4 x 4"):
        open_backbone(str(folders / "vit"), grid=5)


def test_a_model_of_pictures_of_any_aspect_is_refused(tmp_path):
    network = t.Siglip2VisionModel(t.Siglip2VisionConfig(**VISION, num_patches=16))
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SCALING))
    with pytest.raises(UserError, match=r"--model: .* NaFlex"):
        open_backbone(str(tmp_path))


def test_the_same_model_is_known_by_its_weights(folders, tmp_path):
    for model in MODELS:
        identity = open_backbone(str(folders / model)).identity
        assert open_identical(identity).identity == identity
    with pytest.raises(UserError, match="other weights"):
        open_identical(identity, str(folders / "vit"))
    with pytest.raises(UserError, match=r"--model: .* can't be read"):
        open_backbone(str(tmp_path))
    network = t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=5))
    weights = {k: v for k, v in network.state_dict().items() if "layernorm.weight" not in k}
    network.save_pretrained(tmp_path, state_dict=weights)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SCALING))
    with pytest.raises(UserError, match="no weights for"):
        open_backbone(str(tmp_path))


def test_a_fingerprint_survives_new_names_of_parameters():
    class Renamed(grid.Frozen):
        named = False

    scaling = types.SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_normalize=True)
    layer = torch.nn.Linear(2, 3)
    before, after = (Renamed(torch.nn.ModuleDict({x: layer}), scaling) for x in ("old", "new"))
    known = before.fingerprint()
    assert after.fingerprint() == known
    layer.bias.data += 1
    assert after.fingerprint() != known


@pytest.mark.long
def test_a_killed_command_goes_on(folders, tmp_path):
    dump = write_dump(tmp_path / "dump", lines=400)

    def command(output):
        flags = [f"--model={folders / 'vit'}", f"--input={dump}", f"--output={output}", "--batch=3"]
        run = [sys.executable, "-m", "launch.extract_regions", *flags]
        return subprocess.Popen(run, cwd=ROOT, stderr=subprocess.DEVNULL)

    assert command(tmp_path / "whole").wait() == 0
    first = command(tmp_path / "out")
    while len(list((tmp_path / "out").rglob("*.npz"))) < 50:
        assert first.poll() is None
    first.kill()
    first.wait()
    assert not (tmp_path / "out" / "shop" / "399.npz").exists()
    assert command(tmp_path / "out").wait() == 0
    whole, out = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*.*")}
        for top in (tmp_path / "whole", tmp_path / "out")
    )
    assert len(whole) > 200
    assert out == whole


def test_efficientnet_of_a_package():
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install -r requirements-torch.txt")
    backbone = open_backbone("efficientnet_lite0", size=64)
    (raw, _) = backbone(pictures(size=64))
    assert raw["features"].shape == (4, 1280)
    assert raw["cls_prob"].shape == (4, 1000)
    assert (np.count_nonzero(raw["cls_prob"], axis=1) <= 32).all()
    assert backbone.identity.weights.startswith("91516307")
