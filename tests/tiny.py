"""The tiny model that tests share: the real settings shrunk until a step takes milliseconds."""

import dataclasses
import functools

import jax

from k3m_jax import settings as s
from k3m_jax.model.network import Network
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.reproductions.release.validation import RELEASED_STRUCTURE
from k3m_jax.training.trainer import Trainer


def tiny_settings(**groups) -> s.Settings:
    """Complete, checked settings of a two-layer K3M; `groups` replaces whole groups or `seed`.

    Change part of a group with `dataclasses.replace(TINY.training, steps=7)`.
    """
    settings = dataclasses.replace(TINY, **groups)
    settings.validate()
    return settings


TINY = s.Settings(
    lengths=s.Lengths(title=8, knowledge=16, triples=4, candidate=6),
    image=s.Image(front_end="patches", regions=4, patch_size=4, classes=7, top_classes=3),
    model=s.Model(
        text=s.Encoder(layers=2, width=32, heads=4, mlp=64),
        image=s.Encoder(layers=2, width=32, heads=4, mlp=64),
        interactor=s.Interactor(blocks=2, width=32, heads=4, image_mlp=64, text_mlp=64),
        structure=s.Structure(heads=2),
        vocabulary=60,
        positions=16,
        dropout=0.0,
        dtype="float32",
    ),
    objectives=s.Objectives(lpm=s.LinkPrediction(negative_values=2), group=4),
    # Where the true gradient is 0, as of the keys' biases, Adam makes full steps of its rounding if
    # eps is not large next to it; runs that add up in different orders would then part.
    optimizer=s.Optimizer(learning_rate=1e-3, eps=1e-5),
    training=s.Training(steps=10, batch=32, log_every=1, eval_every=5, checkpoint_every=5),
    evaluation=s.Evaluation(batch=16, stability=0),
    mesh=s.Mesh(data=1),
)
# With regions of a detector (`products.detected`) in the place of patches.
DETECTED = dataclasses.replace(
    TINY, image=dataclasses.replace(TINY.image, front_end="regions", feature_dim=6)
)


def released(settings: s.Settings, mode: str = "hard") -> s.Settings:
    """The same in the `release` preset: a layer of each stream after each block."""
    steps = {f"{stream}_layers": (0, 1) for stream in ("text", "image")}
    model = dataclasses.replace(
        settings.model,
        preset="release",
        interactor=dataclasses.replace(settings.model.interactor, **steps),
        fusion=s.Fusion(mode=mode, temperature_end=1.0),
        structure=RELEASED_STRUCTURE,
    )
    changed = dataclasses.replace(settings, model=model)
    changed.validate()
    return changed


def baseline(preset: str, *, knowledge_text: bool = False) -> s.Settings:
    """The settings of a baseline; its text is K3M's title, or its title and knowledge together."""
    how = {"preset": preset, "knowledge_text": knowledge_text, "positions": 24}
    return tiny_settings(model=dataclasses.replace(TINY.model, **how))


@functools.cache
def tiny_program(settings: s.Settings = TINY, *mesh: int) -> Trainer:
    """Compiled once for all tests; `mesh` is (data, fsdp, tensor), and one device if left out."""
    return Trainer(Network(settings), make_mesh(s.Mesh(*(mesh or (1, 1, 1)))))


@functools.cache
def tiny_compiled(data: int, fsdp: int, tensor: int) -> jax.stages.Compiled:
    """Its step on such a mesh, to be looked at."""
    return tiny_program(TINY, data, fsdp, tensor).lower().compile()
