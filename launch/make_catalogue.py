"""Makes the embedded catalogue: a made-up shop with drawn pictures, titles and triples.

    python -m launch.make_catalogue --output=data/catalogue --products=2000 --seed=0 --overlap=0.5

Each product has 1 to 4 items (2.2 on average: other photographs, other words). The folder is what
`launch.build_shards --format=jsonl` reads: products.jsonl, align_pairs.jsonl and images/. The same
flags always make the same bytes. docs/catalogue.md tells what is in it.
"""

import os

from absl import app, flags

from k3m_jax.synthetic_shop.catalogue import draw_contact_sheet, make_catalogue
from launch import cli

OUTPUT = flags.DEFINE_string("output", None, "Folder to write; it must not exist.", required=True)
PRODUCTS = flags.DEFINE_integer("products", 2000, "Products; about 2.2 items each.")
SEED = flags.DEFINE_integer("seed", 0, "Another seed is another shop, with the same brands.")
OVERLAP = flags.DEFINE_float(
    "overlap",
    0.5,
    "How much the modalities repeat each other, 0 to 1: the chance that a fact told in one of "
    "picture, title and triples is told in another that could tell it. At 0 each is told once.",
)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 96, "Pixels on each side of a picture.")
WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "Processes that draw; 0: this one.")
SHEET = flags.DEFINE_string("contact_sheet", None, "PNG to write, with pictures of each category.")


def main(argv: list[str]) -> None:
    """Makes the catalogue and says what it holds and what to do next."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    counts = make_catalogue(
        OUTPUT.value, PRODUCTS.value, SEED.value, OVERLAP.value, IMAGE_SIZE.value, WORKERS.value
    )
    print(f"{OUTPUT.value}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
    if SHEET.value:
        draw_contact_sheet(OUTPUT.value, SHEET.value)
    print(
        "Next, make shards of it:\n"
        f"  python -m launch.build_shards --format=jsonl --input={OUTPUT.value} "
        f"--output={OUTPUT.value.rstrip('/')}_shards"
    )


if __name__ == "__main__":
    cli.run(main)
