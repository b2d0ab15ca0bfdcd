"""Makes the embedded catalogue: a synthetic shop with drawn pictures, titles and triples.

    python -m launch.make_catalogue --output=data/catalogue --products=2000 --seed=0 --overlap=0.5

Each product has 1 to 4 items (2.2 on average: other photographs, other words). The folder is what
`launch.build_shards --format=jsonl` reads: products.jsonl, align_pairs.jsonl and images/. The same
flags always make the same bytes. docs/catalogue.md describes what is in it.
"""

import dataclasses
import os

from k3m_jax.settings.schema import option, required
from k3m_jax.synthetic_shop.catalogue import draw_contact_sheet, make_catalogue
from launch import cli


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the command."""

    output: str = required("folder to write; it must not exist")
    products: int = option(2000, "products, of about 2.2 items each")
    seed: int = option(0, "another seed is another shop, with the same brands")
    overlap: float = option(
        0.5,
        "how much the modalities repeat each other, 0 to 1: the chance that a fact in one of "
        "picture, title and triples is in another that could show it; at 0 each is in one only",
    )
    image_size: int = option(96, "pixels on each side of a picture")
    workers: int = option(os.cpu_count(), "processes that draw; 0: only this one")
    contact_sheet: str = option("", "PNG to write, with pictures of each category")


def main(flags: Flags) -> None:
    """Makes the catalogue, and says what it holds and what to do next."""
    output = flags.output
    counts = make_catalogue(
        output, flags.products, flags.seed, flags.overlap, flags.image_size, flags.workers
    )
    print(f"{output}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
    if flags.contact_sheet:
        draw_contact_sheet(output, flags.contact_sheet)
    print(
        "Next, make shards of it:\n"
        f"  python -m launch.build_shards --format=jsonl --input={output} "
        f"--output={output.rstrip('/')}_shards"
    )


if __name__ == "__main__":
    cli.run(main)
