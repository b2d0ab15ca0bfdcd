"""What becomes of a catalog's first products, in words and drawn, before anything is built."""

import io
import itertools
import textwrap

from etils import epath
from matplotlib import figure
from PIL import Image

from k3m_jax.data.build.record_builder import BuiltRecord, RecordBuilder
from k3m_jax.data.catalog.readers import CatalogReader
from k3m_jax.data.records import RejectedLine

SHOWN = 12  # triples of a product


def preview(catalog: CatalogReader, count: int, side: int, path: epath.PathLike) -> str:
    """The first `count` products in words; their pictures, `side` pixels, are drawn to `path`."""
    build = RecordBuilder(catalog, side, side)
    lines = itertools.islice(catalog.lines(), count)
    outcomes = [(raw, build(raw)) for raw in lines]
    texts = [f"{raw.file} line {raw.line}\n{_described(outcome)}" for raw, outcome in outcomes]
    drawn = figure.Figure(figsize=(10, 2.4 * max(1, len(texts))))
    for i, (text, (_, outcome)) in enumerate(zip(texts, outcomes, strict=True)):
        left, right = (drawn.add_subplot(len(texts), 2, 2 * i + j) for j in (1, 2))
        if isinstance(outcome, BuiltRecord) and outcome.record.picture:
            left.imshow(Image.open(io.BytesIO(outcome.record.picture)))
        words = (textwrap.shorten(line, 78, placeholder=" …") for line in text.splitlines())
        plain = "\n".join(words).replace("$", r"\$")
        right.text(0, 1, plain, va="top", fontsize=7, transform=right.transAxes)
        left.axis("off")
        right.axis("off")
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        drawn.savefig(file, format="png", dpi=100, bbox_inches="tight")
    return "\n\n".join([*texts, f"drawn: {path}"])


def _described(outcome: BuiltRecord | RejectedLine) -> str:
    if isinstance(outcome, RejectedLine):
        return f"  rejected  {outcome.reason}: {outcome.detail}"
    record = outcome.record
    triples = [f"{name}: {value}" for name, value in record.triples]
    if more := len(triples) - SHOWN:
        triples = [*triples[:SHOWN], f"and {more} more"] if more > 0 else triples
    parts = {
        "id": record.id,
        "product": record.product,
        "split": outcome.split,
        "category": record.category,
        "title": record.title,
        "picture": outcome.picture or "in the table" if record.picture else "none",
        "triples": "; ".join(triples),
        "repaired": "; ".join(outcome.repairs),
    }
    return "\n".join(f"  {name:9} {value}" for name, value in parts.items() if value)
