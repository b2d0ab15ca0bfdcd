"""Builds the shards of a data set from a folder of products; docs/data.md describes the formats.

  python -m launch.build_shards --format=jsonl --input=FOLDER --output=DATA
jsonl:   FOLDER/products.jsonl, an object a line, and the pictures it names by relative path.
release: FOLDER/*.tsv of the public K3M release, one file per split, without pictures.
"""

import dataclasses
import os
import time
from typing import Literal

from k3m_jax.data.build.local import BuildArguments, build, report
from k3m_jax.data.catalog.readers import FORMATS
from k3m_jax.settings.schema import option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags(BuildArguments):
    """Those of a build, by default with all cores."""

    format: Literal[*FORMATS] = required("how the products are written")
    workers: int = option(os.cpu_count(), "worker processes; 0: none but this one")


def main(flags: Flags) -> None:
    """Builds and reports."""
    start = time.monotonic()
    built = build(BuildArguments(**dataclasses.asdict(flags)))
    print(report(built, seconds=time.monotonic() - start))


if __name__ == "__main__":
    cli.run(main)
