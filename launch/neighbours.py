"""Neighbours and duplicates of a catalogue, by the vectors that launch.embed wrote.

  python -m launch.neighbours --vectors=vectors --output=near [--pairs=DUMP/align_pairs.jsonl]
      [--format=jsonl --input=DUMP [--model=FOLDER]]

Writes neighbours.parquet, exact, by cosine; with labelled pairs duplicates.parquet, the candidate
pairs above the cosine that tells those best; and how many of a product's other items are among its
neighbours. With the products themselves, what their titles and raw pixels reach, and gallery.html;
with a model, what it would fill in (docs/serving.md).
"""

import dataclasses
from typing import Literal

from k3m_jax.applications.exploring import Exploration
from k3m_jax.applications.neighbours import Items
from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.data.store import remote
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.bulk import SUFFIXES
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    vectors: str = required("folder that launch.embed wrote")
    output: str = required("folder to write")
    k: PositiveInt = option(10, "neighbours of each item")
    pairs: str = option("", "JSON lines with a, b and label, 1 for one product")
    format: Literal["", *FORMATS] = option("", "how the products are written")
    input: str = option("", "folder of the products, for floors and the gallery")
    model: str = option("", "folder that launch.export wrote, to fill in properties")
    gallery: NonNegativeInt = option(40, "products shown; 0 is no gallery")
    queries: PositiveInt = option(2000, "items at most that recall is measured on")
    files: Literal[*SUFFIXES] = option("parquet", "what is written")


def main(flags: Flags) -> None:
    """Searches, measures, writes and reports."""
    if bool(flags.format) != bool(flags.input):
        raise UserError("--format and --input go together: give both")
    catalog = open_catalog(flags.format, flags.input) if flags.input else None
    model = from_pretrained(flags.model) if flags.model else None
    items, output = Items.read(flags.vectors), remote.absolute(flags.output)
    job = Exploration(items, output, flags.k, flags.queries, flags.files)
    print(job.run(catalog, model, flags.pairs, flags.gallery))


if __name__ == "__main__":
    cli.run(main)
