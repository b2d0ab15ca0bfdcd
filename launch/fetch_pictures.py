"""Fetches the pictures that a dump names by address, into a folder for --pictures.

  python -m launch.fetch_pictures --format=table --mapping=shopify --input=FILE --output=PICTURES

Then launch.build_shards and launch.embed take --pictures=PICTURES. The same command goes on where
it was stopped, and tries again what failed for a cause that may have passed.
"""

import dataclasses
import pathlib
from typing import Literal

from k3m_jax.data.catalog.fetched import Limits, addresses_of
from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import NonNegativeInt, option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    format: Literal[*FORMATS] = required("how the products are written")
    input: str = required("folder of the products, or the file of a table")
    output: str = required("folder to put the pictures in")
    mapping: str = option("", "of a table: a preset, or a .toml file that names its columns")
    views: NonNegativeInt = option(1, "pictures of a product to fetch, in their order; 0: all")
    limits: Limits = Limits()


def main(flags: Flags) -> None:
    """Fetches and reports."""
    try:
        from k3m_jax.data.catalog import fetching  # an extra
    except ModuleNotFoundError as error:
        hint = "pip install -r requirements-fetch.txt"
        raise UserError(f"{error.name} is not installed: {hint}") from error
    options = {"mapping": flags.mapping} if flags.mapping else {}
    catalog = open_catalog(flags.format, flags.input, **options)
    addresses = addresses_of(map(catalog.read, catalog.lines()), flags.views)
    print(fetching.fetch(addresses, pathlib.Path(flags.output), flags.limits))


if __name__ == "__main__":
    cli.run(main)
