"""What `launch.bench` measures, as a table and as JSON."""

import dataclasses
import json
from typing import Any

from etils import epath

from k3m_jax.benchmarks import batches as made
from k3m_jax.benchmarks.input import measure_batches
from k3m_jax.benchmarks.step import measure_step
from k3m_jax.benchmarks.timing import machine
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.data.input.pack_size import with_pack_size
from k3m_jax.data.input.packing import Pack, row_length, text_names
from k3m_jax.data.input.pipeline import Inputs, open_inputs
from k3m_jax.evaluation.report import markdown_table
from k3m_jax.parallel.mesh import data_shards, make_mesh
from k3m_jax.settings import Settings, UserError

PARTS = ("step", "input")
BATCHES = 4  # that a step is timed on, in turn
NOISE = {"vocabulary": 21128, "classes": 1601}  # of the release's tokenizer and detector


def measure(flags: Any) -> dict[str, Any]:
    """The figures of `flags.what`, `flags` being those of launch.bench.

    Raises UserError where the data do not fit the settings.
    """
    settings, what = flags.config, flags.what
    if what == "step":
        return _report(flags, _step(flags))
    if not settings.data.sources:
        raise UserError(f"launch.bench {what}: data.sources is empty, name shards")
    inputs = open_inputs(settings.data)
    settings = inputs.resolve(settings)
    settings, _ = _packed(settings, inputs)
    steps = max(2, -(-flags.items // settings.training.batch))
    return _report(flags, measure_batches(settings, inputs, steps))


def write(figures: dict[str, Any], path: str) -> None:
    """Prints the figures as a table, and writes them as JSON where `path` is not empty."""
    rows = [("figure", "value"), *_rows(figures)]
    print("\n".join(markdown_table(rows)))
    if path:
        epath.Path(path).write_text(json.dumps(figures, indent=1) + "\n")


def _report(flags: Any, found: dict[str, Any]) -> dict[str, Any]:
    return {"what": flags.what, **found, "machine": machine()}


def _rows(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{name}.")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((f"{prefix}{name}", text))
    return rows


def _step(flags: Any) -> dict[str, Any]:
    settings = flags.config
    if settings.data.sources:
        inputs = open_inputs(settings.data)
        settings = inputs.resolve(settings)
        batches = made.real(settings, inputs, BATCHES)
        settings, _ = _packed(settings, inputs)
        if flags.regions_of_noise:
            settings, batches = _with_regions(settings, batches)
    else:
        settings = settings.resolved(**NOISE)
        batches = [made.noise(settings, settings.training.batch, seed) for seed in range(BATCHES)]
        settings = packed_noise(settings, batches)
    return measure_step(settings, batches, flags.runs)


def _packed(settings: Settings, inputs: Inputs) -> tuple[Settings, str]:
    return with_pack_size(settings, inputs, data_shards(make_mesh(settings.mesh)))


def packed_noise(settings: Settings, batches: list[made.Arrays]) -> Settings:
    """Packs as large as the batch, of as many rows as the noise needs."""
    layout = BatchLayout.of(settings)
    names = text_names(settings, layout.arrays)
    if not (settings.packing.texts and names):
        return settings
    length, items = row_length(names, layout.arrays), settings.training.batch
    texts = {n: (batches[0][f"{n}_tokens"], batches[0][f"{n}_mask"]) for n in names}
    packing = dataclasses.replace(settings.packing, products=items, rows=Pack(texts, length).rows)
    return dataclasses.replace(settings, packing=packing)


def _with_regions(settings: Settings, batches: list[made.Arrays]) -> tuple[Settings, list]:
    """Settings of a detector's regions, and the batches with regions of noise."""
    image = dataclasses.replace(
        settings.image, front_end="regions", regions=36, feature_dim=2048, classes=NOISE["classes"]
    )
    chosen = dataclasses.replace(settings, image=image)
    return chosen, made.with_regions_of_noise(settings, chosen, batches)
