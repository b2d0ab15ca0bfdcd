"""The README.md of an exported model: what it is, what it learned from, how good it is, its use."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from k3m_jax.data.input.batch import batch_spec
from k3m_jax.evaluation.report import Report
from k3m_jax.evaluation.task_report import TaskReport
from k3m_jax.model.network import Network
from k3m_jax.objectives.pretraining import tasks
from k3m_jax.serving.functions import signatures
from k3m_jax.settings import Settings

# What each array of `embed` and `link_scores` means; shapes and types come from the settings.
MEANING = {
    "title_tokens": "[CLS] title [SEP], then 0",
    "title_mask": "valid tokens, special ones included",
    "title_content": "valid tokens that are not special; none where the title is absent",
    "region_boxes": "x1, y1, x2, y2, area as shares of the picture; row 0 is 0, 0, 1, 1, 1",
    "region_mask": "valid regions, row 0 the whole picture; none where the picture is absent",
    "knowledge_mask": "valid tokens",
    "property_spans": "[start, end) of each triple's property in `knowledge_tokens`",
    "value_spans": "[start, end) of each triple's value",
    "triple_mask": "which triples there are; none where knowledge is absent",
}
LINK_MEANING = {
    "tokens": "[CLS] property value [SEP], then 0",
    "mask": "valid tokens",
    "property_spans": "[start, end) of the property",
    "value_spans": "[start, end) of the value",
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Products that a run learned from; all but the fingerprint may be unknown."""

    fingerprint: str
    name: str = ""
    products: Mapping[str, int] | None = None  # by split
    missing: Mapping[str, int] | None = None  # without a picture, title or triples


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the card tells that the model itself does not."""

    settings: Settings
    step: int
    parameters: int
    data: tuple[DataSet, ...]
    versions: Mapping[str, str]
    imported: Mapping[str, Any] | None  # what its first parameters were, `Meta.imported`
    reports: tuple[Report | TaskReport, ...]


def write(facts: Facts, network: Network, platforms: Sequence[str]) -> str:
    """The card, Markdown."""
    parts = [_what(facts), _data(facts.data), _training(facts), _figures(facts), _library(facts)]
    if platforms:
        parts.append(_artefacts(facts, network, platforms))
    return "\n\n".join(parts) + "\n"


def _what(facts: Facts) -> str:
    s = facts.settings
    side = s.image.grid * s.image.patch_size
    picture = (
        f"picture, {side} x {side} pixels cut into {s.image.regions} patches"
        if s.image.front_end == "patches"
        else f"picture, {s.image.regions} regions of a detector at most, {s.image.feature_dim} "
        "numbers each"
    )
    return f"""\
---
library_name: k3m_jax
pipeline_tag: feature-extraction
---
# K3M: one vector per product

Embeds a product as {s.model.text.width} numbers from its {picture}; its title, {s.lengths.title} \
tokens at most; and its knowledge, (property, value) triples, {s.lengths.triples} of them and \
{s.lengths.knowledge} tokens at most. Any of the three may be missing. {facts.parameters:,} \
parameters, float32; activations in {s.model.dtype}; the preset `{s.model.preset}`."""


def _data(data: Sequence[DataSet]) -> str:
    lines = [
        "## Data",
        "",
        "| data set | products | without picture | without title | without triples | fingerprint |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for each in data:
        cells = ["not at hand when this was written", *["–"] * 4]
        if each.products is not None:
            products = ", ".join(f"{count:,} {split}" for split, count in each.products.items())
            missing = (f"{each.missing[key]:,}" for key in ("picture", "title", "triples"))
            cells = [each.name, products, *missing]
        lines.append(f"| {' | '.join(cells)} | `{each.fingerprint[:16]}` |")
    return "\n".join(lines)


def _training(facts: Facts) -> str:
    s = facts.settings
    weights = ", ".join(
        f"{task} {getattr(s.objectives, task).weight:g}" for task in tasks(batch_spec(s, 1))
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return f"""\
## Training

Pretrained for {facts.step:,} of {s.training.steps:,} steps of {s.training.batch} products; \
learning rate {s.optimizer.learning_rate:g}, seed {s.seed}. Weights of the objectives: {weights}. \
{_beginning(facts.imported)} `config.json` has all settings.

{versions}."""


def _beginning(imported: Mapping[str, Any] | None) -> str:
    if imported is None:
        return "It began from scratch."
    told = (f"{name} {value}" for name, value in imported.items() if name != "folder")
    return f"It began from other weights ({', '.join(told)})."


def _figures(facts: Facts) -> str:
    if not facts.reports:
        return """\
## Figures

None were measured of this checkpoint (`python -m launch.evaluate`, `launch.probe`)."""
    tables = [f"### {report.title}\n\n{report.table()}" for report in facts.reports]
    return "\n\n".join(["## Figures", *tables])


def _library(facts: Facts) -> str:
    example = (
        'picture=open("dress.jpg", "rb").read()'
        if facts.settings.image.front_end == "patches"
        else "regions=arrays"
    )
    return f"""\
## With k3m_jax

    from k3m_jax.serving import from_pretrained

    model = from_pretrained(FOLDER)
    record = model.record("1", title="red dress", triples=[("colour", "red")], {example})
    vectors = model.embed([record])  # float32 [1, {facts.settings.model.text.width}]

A dump of products at once: `python -m launch.embed --help`."""


def _artefacts(facts: Facts, network: Network, platforms: Sequence[str]) -> str:
    s = facts.settings
    functions = signatures(network)
    example = (
        '"picture": open("dress.jpg", "rb").read()'
        if s.image.front_end == "patches"
        else '"boxes": boxes, "features": features'
    )
    marked = " : value ; " if s.model.preset == "release" else " value "
    meaning = MEANING | {"knowledge_tokens": f"[CLS] property{marked}property … [SEP], then 0"}
    meaning["region_inputs"] = (
        f"pixels 0 to 255 of each patch, row by row, {s.image.patch_size} x {s.image.patch_size} x "
        "3; patches row by row"
        if s.image.front_end == "patches"
        else "the detector's features"
    )
    (products,) = functions["embed"].shapes
    rows = [f"| `{name}` | {_shape(shape)} | {meaning[name]} |" for name, shape in products.items()]
    text = f"""\
## Without k3m_jax

The functions lie here as artefacts of `jax.export` (StableHLO), for {", ".join(platforms)}; the \
weights are their first argument, the number of rows is free. They need \
`pip install jax flatbuffers safetensors`, `preprocess.py` needs `pip install pillow tokenizers`:

```python
import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

from preprocess import Preprocessor

weights = jax.device_put(load_file("model.safetensors"))
with open("embed.jax_export", "rb") as file:
    embed = jax.jit(export.deserialize(file.read()).call)

products = Preprocessor(".")(
    [{{"title": "red dress", "triples": [("colour", "red")], {example}}}]
)
vectors = np.asarray(embed(weights, products))  # float32 [B, {s.model.text.width}]
```

Every number of rows B that is new is compiled anew: fill up to a few fixed ones (rows of zeros \
will do) and drop the surplus. `jax.export` promises to read an artefact for six months of its \
releases; `config.json` tells which jax wrote this one.

`embed(weights, products)` takes a dict of these arrays (`preprocess.py` makes them):

| array | type and shape | |
| --- | --- | --- |
"""
    text += "\n".join(rows)
    if "link_scores" in functions:
        embeddings, triples = functions["link_scores"].shapes
        text += f"""

`link_scores(weights, embeddings, triples)` tells how well each of Q triples fits each product: \
−‖c + p − v‖, float32 [B, Q], high is likely. It compares values of one property. `embeddings` \
({_shape(embeddings)}) is what `embed` gave, `triples` a dict:

| array | type and shape | |
| --- | --- | --- |
"""
        text += "\n".join(
            f"| `{name}` | {_shape(shape)} | {LINK_MEANING[name]} |"
            for name, shape in triples.items()
        )
    return text


def _shape(shape) -> str:
    return f"{shape.dtype} [{', '.join(map(str, shape.shape))}]"
