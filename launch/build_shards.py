"""Builds the shards of a data set from a folder of products; docs/data.md tells the formats.

  python -m launch.build_shards --format=jsonl --input=FOLDER --output=DATA
jsonl:   FOLDER/products.jsonl, an object a line, and the pictures it names by relative path.
release: FOLDER/*.tsv of the public K3M release, one file per split, without pictures.
"""

import os
import time
import typing

from absl import app, flags

from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build, report
from launch import cli

HELP = {
    "format": "how the products are written",
    "input": "folder of the products",
    "output": "folder to put the data set in, local or remote",
    "front_end": "pixels on a grid, or a detector's regions (then give --region_features)",
    "image_size": "pixels a side of the stored picture",
    "patch_size": "pixels a side of a patch",
    "codebook_size": "classes of patches at most",
    "codebook": "shards whose classes of patches are taken; no train split is needed then",
    "vocabulary_size": "tokens of the tokenizer trained on the products; 0: none",
    "region_features": "TSV of bottom-up-attention tools, .npz, or a folder of .npz by id",
    "top_classes": "most probable classes kept per region",
    "shards": "files per split; 0: by size, 32 MB each",
    "workers": "worker processes; 0: none but this one",
    "valid_fraction": "share of products held out as `valid`, of records that name no split",
    "folds": "cut the products into so many parts, whatever splits they name; 0: leave them",
    "fold": "the part held out as `test`, from 0 on; --valid_fraction of the others are `valid`",
    "overwrite": "replace the data set that --output has already",
    "beam_options": "build with Apache Beam and these flags of its own",
}
REQUIRED = ("format", "input", "output")
DEFAULTS = BuildArguments(*REQUIRED, workers=os.cpu_count())
DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
for _name, _type in typing.get_type_hints(BuildArguments).items():
    _default = None if _name in REQUIRED else getattr(DEFAULTS, _name)
    if typing.get_origin(_type) is typing.Literal:
        flags.DEFINE_enum(_name, _default, typing.get_args(_type), HELP[_name])
    else:
        DEFINE.get(_type, flags.DEFINE_string)(_name, _default, HELP[_name])
flags.mark_flags_as_required(REQUIRED)


def main(argv: list[str]) -> None:
    """Builds and reports."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    start = time.monotonic()
    made = build(BuildArguments(**{name: flags.FLAGS[name].value for name in HELP}))
    print(report(made, seconds=time.monotonic() - start))


if __name__ == "__main__":
    cli.run(main)
