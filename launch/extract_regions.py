"""Looks at the pictures of a dump with a frozen vision model, for --region_features.

  python -m launch.extract_regions --model=google/siglip2-base-patch16-224 --input=DUMP \
      --output=REGIONS
  python -m launch.build_shards --format=jsonl --input=DUMP --front_end=regions \
      --region_features=REGIONS --output=DATA

REGIONS gets an .npz for each product with a picture (docs/data.md). The same command goes on where
it was interrupted. It needs requirements-torch.txt.
"""

import dataclasses
import pathlib
from typing import Literal

from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.data.store import remote
from k3m_jax.pretrained.vision import open_backbone
from k3m_jax.pretrained.vision.extraction import BATCH, extract
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    model: str = required("folder or hub id of a Hugging Face model; or efficientnet_lite0")
    input: str = required("folder of the products, or the file of a table")
    output: str = required("folder to put the features in, a local one")
    format: Literal[*FORMATS] = option("jsonl", "how the products are written")
    mapping: str = option("", "of a table: a preset, or a .toml file that names its columns")
    pictures: str = option("", "folder that the pictures' paths begin at; the input's if empty")
    size: NonNegativeInt = option(0, "pixels a side of the picture that it sees; 0: the model's")
    grid: NonNegativeInt = option(0, "cells a side; 0: 7, or the model's own where it has fewer")
    batch: PositiveInt = option(BATCH, "pictures at a time")
    workers: NonNegativeInt = option(0, "processes that read pictures; 0: none but this one")


def main(flags: Flags) -> None:
    """Extracts and reports."""
    if remote.is_remote(flags.output):
        raise UserError(f"--output: {flags.output} is not a local folder")
    options = {"mapping": flags.mapping, "pictures": flags.pictures}
    catalog = open_catalog(flags.format, flags.input, **options)
    backbone = open_backbone(flags.model, flags.size, flags.grid)
    print(extract(backbone, catalog, pathlib.Path(flags.output), flags.batch, flags.workers))


if __name__ == "__main__":
    cli.run(main)
