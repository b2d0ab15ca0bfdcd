"""Embeds a dump of products with an exported model.

  python -m launch.embed --model=FOLDER --format=jsonl --input=DUMP --output=embeddings.npz

FOLDER is what launch.export wrote, DUMP what launch.build_shards reads; no shards are needed. The
output holds `ids` [N] and `vectors` float32 [N, D], in the order of the dump. Records that can't be
used are told in embeddings.rejects.jsonl, as in building.
"""

import os

from absl import app, flags

from k3m_jax.data.catalog.readers import FORMATS
from k3m_jax.data.store import remote
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.dump import embed_dump
from k3m_jax.settings import UserError
from launch import cli

MODEL = flags.DEFINE_string("model", None, "folder that launch.export wrote", required=True)
FORMAT = flags.DEFINE_enum("format", None, list(FORMATS), "how the products are written")
INPUT = flags.DEFINE_string("input", None, "folder of the products", required=True)
OUTPUT = flags.DEFINE_string("output", None, ".npz to write", required=True)
FEATURES = flags.DEFINE_string("region_features", "", "a detector's regions, see docs/data.md")
WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "processes that read; 0: none but this")
flags.mark_flag_as_required("format")


def main(argv: list[str]) -> None:
    """Embeds, writes and reports."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    output = remote.absolute(OUTPUT.value)
    there = remote.is_remote(output) or output.parent.is_dir()
    if output.suffix != ".npz" or output.is_dir() or not there:
        raise UserError(f"--output: {OUTPUT.value} is not an .npz in a folder that exists")
    found = embed_dump(
        from_pretrained(MODEL.value),
        FORMAT.value,
        INPUT.value,
        region_features=FEATURES.value,
        workers=WORKERS.value,
    )
    found.save(output)
    print(found.report(output))


if __name__ == "__main__":
    cli.run(main)
