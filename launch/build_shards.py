"""Builds the shards of a data set from a dump of products; docs/dumps.md says which flags to take.

  python -m launch.build_shards --format=jsonl --input=FOLDER --output=DATA
  python -m launch.build_shards --format=table --mapping=shopify --input=FILE --output=DATA
table:   FILE, or FOLDER of files: .csv, .tsv, .jsonl, .parquet, .xml or .tar, gzipped or not;
         --mapping says what the columns mean.
jsonl:   FOLDER/products.jsonl, an object a line, and the pictures it names by relative path.
release: FOLDER/*.tsv of the public K3M release, one file per split, without pictures.

--preview=5 shows what becomes of five products, and builds nothing.
"""

import dataclasses
import os
import time
from typing import Literal

from etils import epath

from k3m_jax.data.build.local import BuildArguments, build, report
from k3m_jax.data.build.preview import preview
from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.settings.schema import NonNegativeInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags(BuildArguments):
    """Those of a build, by default with all cores."""

    format: Literal[*FORMATS] = required("how the products are written")
    workers: int = option(os.cpu_count(), "worker processes; 0: none but this one")
    preview: NonNegativeInt = option(0, "products to show, in words and in OUTPUT/preview.png")


def main(flags: Flags) -> None:
    """Builds and reports, or previews."""
    if flags.preview:
        options = {"strict": flags.strict, "mapping": flags.mapping, "pictures": flags.pictures}
        catalog = open_catalog(flags.format, flags.input, **options)
        path = epath.Path(flags.output) / "preview.png"
        print(preview(catalog, flags.preview, flags.image_size, path))
        return
    start = time.monotonic()
    given = dataclasses.asdict(flags)
    del given["preview"]
    built = build(BuildArguments(**given))
    print(report(built, seconds=time.monotonic() - start))


if __name__ == "__main__":
    cli.run(main)
