"""Embeds a dump of products with an exported model.

  python -m launch.embed --model=FOLDER --format=jsonl --input=DUMP --output=embeddings.npz

FOLDER is what launch.export wrote, DUMP what launch.build_shards reads; no shards are needed. The
output holds `ids` [N] and `vectors` float32 [N, D], in the order of the dump. Records that can't be
used are listed in embeddings.rejects.jsonl, and parts that were repaired or left out in
embeddings.repairs.jsonl, as in building.
"""

import dataclasses
import os
from typing import Literal

from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.data.store import remote
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.dump import embed_dump
from k3m_jax.settings import UserError
from k3m_jax.settings.schema import option, required
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    model: str = required("folder that launch.export wrote")
    format: Literal[*FORMATS] = required("how the products are written")
    input: str = required("folder of the products, or the file of a table")
    output: str = required(".npz to write")
    mapping: str = option("", "of a table: a preset, or a .toml file that names its columns")
    pictures: str = option("", "folder that the pictures' paths begin at; the input's if empty")
    strict: bool = option(False, "reject a record of which a part can't be used as it is")
    region_features: str = option("", "a detector's regions, see docs/data.md")
    backbone_folder: str = option("", "where the model's frozen eyes are, if not at their own name")
    workers: int = option(os.cpu_count(), "processes that read; 0: none but this one")


def main(flags: Flags) -> None:
    """Embeds, writes and reports."""
    output = remote.absolute(flags.output)
    there = remote.is_remote(output) or output.parent.is_dir()
    if output.suffix != ".npz" or output.is_dir() or not there:
        raise UserError(f"--output: {flags.output} is not an .npz in a folder that exists")
    options = {"strict": flags.strict, "mapping": flags.mapping, "pictures": flags.pictures}
    report = embed_dump(
        from_pretrained(flags.model, flags.backbone_folder),
        open_catalog(flags.format, flags.input, **options),
        output,
        region_features=flags.region_features,
        workers=flags.workers,
    )
    print(report)


if __name__ == "__main__":
    cli.run(main)
