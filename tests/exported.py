"""Tiny exported models, and products to ask them for."""

import contextlib
import dataclasses
import functools
import pathlib

import jax
import numpy as np

from configs import quickstart
from k3m_jax import settings as s
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.model.network import Network, Params
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.parallel.shardings import unbox
from k3m_jax.serving import folder, from_pretrained
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.trainer import Trainer
from tests.products import detected, products, tokenizer
from tests.tiny import TINY, tiny_settings

REGIONS = s.Image(front_end="regions", regions=4, feature_dim=6, classes=5, top_classes=3)


def tiny_model(
    dtype: str = "float32", front_end: str = "patches", preset: str = "paper"
) -> Network:
    """A two-layer model of the tests' vocabulary."""
    model = dataclasses.replace(TINY.model, vocabulary=tokenizer().size, dtype=dtype)
    if preset == "release":
        schedule = {"text_layers": (0, 1), "image_layers": (1, 2)}
        interactor = dataclasses.replace(model.interactor, **schedule)
        released = {"structure": s.RELEASED_STRUCTURE, "interactor": interactor}
        model = dataclasses.replace(model, preset=preset, **released)
    image = TINY.image if front_end == "patches" else REGIONS
    return Network(tiny_settings(model=model, image=image))


@functools.cache
def tiny_params(network: Network) -> Params:
    """Parameters of which no two are alike: biases of 0 would hide what they do."""
    shapes = unbox(jax.eval_shape(network.init_params, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def fresh(path, leaf):
        scale = path[-1].key == "scale"
        return (scale + rng.normal(0, 0.1, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fresh, shapes)


def export(
    output: pathlib.Path, network: Network, platforms: tuple[str, ...] = (), card: str = ""
) -> pathlib.Path:
    """The folder of a tiny model."""
    told = {"platforms": platforms, "origin": {"step": 3}, "card": card}
    folder.write(output, network, tiny_params(network), tokenizer(), **told)
    return output


def write_run(workdir: pathlib.Path, beside: pathlib.Path) -> None:
    """A run that stands at step 7, of parameters as they are drawn; its shards in `beside`."""
    make_catalogue(beside / "shop", products=20, seed=0, overlap=0.5, image_size=32)
    sizes = {"image_size": 96, "patch_size": 16, "codebook_size": 16}
    build(BuildArguments("jsonl", str(beside / "shop"), str(beside / "shards"), **sizes))
    config = quickstart.get_config("debug")
    config.data.sources = (str(beside / "shards"),)
    config.mesh.data = 1
    settings = s.Settings.from_config(config)
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    program = Trainer(Network(settings), make_mesh(settings.mesh))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.abstract_state)
    state = zeros._replace(params=tiny_params(program.network))
    state = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, program.abstract_state)
    data = [each.info.fingerprint for each in inputs.shard_sets]
    meta = Meta.of(settings, data, inputs.tokenizer.fingerprint)
    with contextlib.closing(Checkpoints(workdir, meta, keep=1)) as checkpoints:
        checkpoints.record_init_source({"folder": str(beside), "format": "bert", "tensors": 37})
        checkpoints.save(7, state, {"next_index": 7}, loss=1.0)


def every_pattern(front_end: str = "patches") -> list[dict]:
    """One product for each of the 2³ patterns of what is there."""
    whole = [r if front_end == "patches" else r | detected(n) for n, r in enumerate(products(8))]
    if front_end == "regions":
        whole = [{k: v for k, v in r.items() if k != "picture"} for r in whole]
    picture = ("picture", "class_ids", "boxes", "features", "class_probs")
    parts = (("title",), ("properties", "values"), picture)
    return [
        {
            key: value
            for key, value in each.items()
            if not any(key in part and not pattern >> bit & 1 for bit, part in enumerate(parts))
        }
        for pattern, each in enumerate(whole)
    ]


def write_golden(output: pathlib.Path) -> None:
    """What tests/golden/export_v1 was made by, when the format's version was 1.

    That folder stays as it is for good. A new version gets one of its own, by the same lines:
    python -c "import pathlib, exported; exported.write_golden(pathlib.Path('golden/export_v2'))"
    """
    stack = s.Encoder(layers=1, width=8, heads=2, mlp=8)
    interactor = s.Interactor(blocks=1, width=8, heads=2, image_mlp=8, text_mlp=8)
    chosen = tiny_model().settings
    model = dataclasses.replace(chosen.model, text=stack, image=stack, interactor=interactor)
    network = Network(dataclasses.replace(chosen, model=model))
    vectors = from_pretrained(export(output, network)).embed(every_pattern())
    np.savez(output / "expected.npz", vectors=vectors)
    for name in ("README.md", "preprocess.py"):  # that no reader of the format reads
        (output / name).unlink()
