"""Tiny exported models, and products for them."""

import atexit
import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile

import jax
import numpy as np

from configs import quickstart
from k3m_jax import settings as s
from k3m_jax.data.build.local import BuildArguments, build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.data.records import Record
from k3m_jax.modalities import REGISTRY
from k3m_jax.model.network import Network, Params, nested
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.export import PACKAGE, write, write_card
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.checkpoints import Checkpoints, Meta
from k3m_jax.training.trainer import Trainer
from tests.products import detected, having, products, tokenizer
from tests.tiny import DETECTED, TINY, released, tiny_settings


def tiny_model(
    dtype: str = "float32", front_end: str = "patches", preset: str = "paper"
) -> Network:
    """A two-layer model of the tests' vocabulary."""
    model = dataclasses.replace(TINY.model, vocabulary=tokenizer().size, dtype=dtype)
    image = (TINY if front_end == "patches" else DETECTED).image
    chosen = tiny_settings(model=model, image=image)
    return Network(released(chosen) if preset == "release" else chosen)


@functools.cache
def tiny_params(network: Network) -> Params:
    """Parameters of which no two are alike: biases of 0 would hide what they do."""
    rng, weights = np.random.default_rng(0), {}
    for name, leaf in network.abstract_params().items():
        values = name.endswith("/scale") + rng.normal(0, 0.1, leaf.shape)
        weights[name] = values.astype(np.float32)
    return nested(weights)


def export(
    output: pathlib.Path, network: Network, platforms: tuple[str, ...] = (), card: str = ""
) -> pathlib.Path:
    """The folder of a tiny model."""
    facts = {"platforms": platforms, "origin": {"step": 3}, "card": card}
    write(output, network, tiny_params(network), tokenizer(), **facts)
    return output


@functools.cache
def tiny_folder() -> pathlib.Path:
    """A tiny model as it was exported with its card, for CPUs; tests copy what they change."""
    network, output = tiny_model(), pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, output)
    meta = Meta.of(network.settings, [], tokenizer().fingerprint)
    card = write_card(network, meta, {"step": 3, "data": []}, (), ("cpu",))
    return export(output / "model", network, ("cpu",), card)


def write_run(workdir: pathlib.Path, data: pathlib.Path) -> None:
    """A run at step 7, of parameters as they are drawn; its shards in the folder `data`."""
    make_catalogue(data / "shop", products=20, seed=0, overlap=0.5, image_size=32)
    sizes = {"image_size": 96, "patch_size": 16, "codebook_size": 16}
    build(BuildArguments("jsonl", str(data / "shop"), str(data / "shards"), **sizes))
    config = quickstart.get_config("debug")
    config.data.sources = (str(data / "shards"),)
    config.mesh.data = 1
    chosen = s.Settings.from_config(config)
    inputs = open_inputs(chosen.data)
    settings = inputs.resolve(chosen)
    trainer = Trainer(Network(settings), make_mesh(settings.mesh))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), trainer.abstract_state)
    state = zeros._replace(params=tiny_params(trainer.network))
    state = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, trainer.abstract_state)
    fingerprints = [each.info.fingerprint for each in inputs.shard_sets]
    meta = Meta.of(settings, fingerprints, inputs.tokenizer.fingerprint)
    with contextlib.closing(Checkpoints(workdir, meta, keep=1)) as checkpoints:
        checkpoints.record_init_source({"folder": str(data), "format": "bert", "tensors": 37})
        checkpoints.save(7, state)
        checkpoints.record_loss(7, 1.0)


def every_pattern(front_end: str = "patches") -> list[Record]:
    """One product for each of the 2³ patterns of present modalities."""
    found = products(8)
    if front_end == "regions":
        found = [having(item, image=detected(number)) for number, item in enumerate(found)]
    names = ("title", "knowledge", "image")
    return [
        having(item, **{n: REGISTRY[n].empty for bit, n in enumerate(names) if not i >> bit & 1})
        for i, item in enumerate(found)
    ]


def write_golden(output: pathlib.Path) -> None:
    """Writes a folder such as tests/golden/export_v1, by the lines that wrote it.

    Existing folders stay as they are. A new version of the format gets one of its own:
    python -c "import pathlib, exported; exported.write_golden(pathlib.Path('golden/export_v2'))"
    """
    stack = s.Encoder(layers=1, width=8, heads=2, mlp=8)
    interactor = s.Interactor(blocks=1, width=8, heads=2, image_mlp=8, text_mlp=8)
    chosen = tiny_model().settings
    model = dataclasses.replace(chosen.model, text=stack, image=stack, interactor=interactor)
    network = Network(dataclasses.replace(chosen, model=model))
    vectors = from_pretrained(export(output, network)).embed(every_pattern())
    np.savez(output / "expected.npz", vectors=vectors)
    for name in ("README.md", "preprocess.py"):  # `from_pretrained` does not read them
        (output / name).unlink()
    shutil.rmtree(output / PACKAGE)
