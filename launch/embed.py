"""Embeds a dump of products with an exported model.

  python -m launch.embed --model=FOLDER --format=jsonl --input=DUMP --output=DIR [--part=2/4]

FOLDER is what launch.export wrote, DUMP what launch.build_shards reads; no shards are needed. DIR
gets Parquet parts with `id`, `product` and `vector`, in the order of the dump; next to them stand
the records that can't be used, and what was repaired or left out. All devices of the machine
compute; the same command goes on where one was stopped, and several with another --part share the
work (docs/serving.md).
"""

import dataclasses
import functools
from typing import Literal

from k3m_jax.serving.dump import TYPES, vector_table
from k3m_jax.settings.schema import option
from launch import cli, dump_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(dump_flags.DumpFlags):
    """Flags of the command."""

    dtype: Literal[*TYPES] = option("float32", "of the vectors; int8 adds a column `scale`")


def main(flags: Flags) -> None:
    """Embeds, writes and reports."""
    model = dump_flags.open_model(flags)
    how = {"width": model.width, "dtype": flags.dtype}
    job = dump_flags.job(flags, model, "vectors", how)
    print(job.write(functools.partial(vector_table, model, dtype=flags.dtype)))


if __name__ == "__main__":
    cli.run(main)
