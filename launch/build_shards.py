"""Builds the shards of a data set from a folder of products.

  python -m launch.build_shards --format=jsonl --input=FOLDER --output=DATA

jsonl:   FOLDER/products.jsonl, one JSON object a line (id, title, triples, images, …), and the
         pictures it names by relative path.
release: FOLDER/*.tsv of the public K3M release, one file per split, without pictures.

Records that can't be used are set aside and counted, never fatal. A missing picture, title or list
of triples is no reason. docs/data.md tells the formats, and what is stored where.
"""

import json
import os
import time

from absl import app, flags, logging

from k3m_jax.data.building import BuildArguments, build
from k3m_jax.data.shards import REJECTS, ShardSet
from launch import cli

FLAGS = flags.FLAGS
DEFAULTS = BuildArguments(format="", input="", output="")

flags.DEFINE_enum("format", None, ["jsonl", "release"], "how the products are written")
flags.DEFINE_string("input", None, "folder of the products")
flags.DEFINE_string("output", None, "folder to put the data set in, local or remote")
flags.DEFINE_enum(
    "front_end",
    DEFAULTS.front_end,
    ["patches", "regions"],
    "patches: raw pixels on a grid; regions: a detector's features, see --region_features",
)
flags.DEFINE_integer("image_size", DEFAULTS.image_size, "pixels a side of the stored picture")
flags.DEFINE_integer("patch_size", DEFAULTS.patch_size, "pixels a side of a patch")
flags.DEFINE_integer("codebook_size", DEFAULTS.codebook_size, "classes of patches at most")
flags.DEFINE_integer(
    "vocabulary_size", DEFAULTS.vocabulary_size, "tokens of the tokenizer trained; 0: none"
)
flags.DEFINE_string(
    "region_features", DEFAULTS.region_features, "TSV of bottom-up-attention, .npz, or their folder"
)
flags.DEFINE_integer("top_classes", DEFAULTS.top_classes, "classes kept per region")
flags.DEFINE_integer("shards", DEFAULTS.shards, "files per split; 0: by size, 32 MB each")
flags.DEFINE_integer("workers", os.cpu_count(), "worker processes; 0: none but this one")
flags.DEFINE_float(
    "valid_fraction",
    DEFAULTS.valid_fraction,
    "share of products, among records that name no split, that are held out as `valid`",
)
flags.DEFINE_bool("overwrite", DEFAULTS.overwrite, "replace the data set that --output has already")
flags.mark_flags_as_required(["format", "input", "output"])


def report(made: ShardSet, seconds: float) -> str:
    """What was built, what was set aside, and what to run next."""
    info = made.info
    size = sum(path.stat().length for path in made.folder.glob("*.array_record*"))
    items = sum(info.products.values())
    lines = [
        f"{items} items ({json.dumps(info.products)}), {size / items / 1e3:.1f} kB each, "
        f"{seconds:.0f} s: {made.folder}",
        f"missing: {json.dumps(info.missing)}",
    ]
    if info.mended:
        lines.append(f"mended: {json.dumps(info.mended)}")
    if info.rejects:
        lines.append(f"set aside: {json.dumps(info.rejects)}, see {made.folder / REJECTS}")
    lines += [
        f"next: python -m launch.show_batch --data={made.folder}",
        "      python -m launch.pretrain --config=configs/quickstart.py --workdir=runs/first "
        f"--config.data.sources={made.folder}",
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Builds and reports."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.WARNING)  # of TFDS, which tells of each file it writes
    start = time.monotonic()
    names = BuildArguments.__dataclass_fields__
    made = build(BuildArguments(**{name: FLAGS[name].value for name in names}))
    print(report(made, time.monotonic() - start))


if __name__ == "__main__":
    cli.run(main)
