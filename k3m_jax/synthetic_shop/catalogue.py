"""The embedded catalogue: a made-up shop of any size, a pure function of its seed.

`products` draws the facts of a product, `modality_overlap` decides which modalities contain each
fact and writes the texts, `pictures` draws the photographs. This module writes them into a folder
that `launch.build_shards --format jsonl` reads.
"""

import collections
import functools
import io
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import tqdm
from PIL import Image

from k3m_jax.data.store import remote
from k3m_jax.data.workers import ordered_map
from k3m_jax.settings import UserError
from k3m_jax.synthetic_shop.assortment import FAMILIES
from k3m_jax.synthetic_shop.modality_overlap import assign_modalities, write_title, write_triples
from k3m_jax.synthetic_shop.pairs import align_pairs
from k3m_jax.synthetic_shop.pictures import Look, draw
from k3m_jax.synthetic_shop.products import Product, draw_product

MISSING = 0.03
"""Share of items without a picture; as many others lack a title, and as many the triples."""

_ITEM_CHANCES = (0.3, 0.35, 0.2, 0.15)  # of a product with 1, 2, 3, 4 items
_SECOND_VIEW = 0.1  # share of items with two pictures
_SPLITS = (*["train"] * 8, "valid", "test")  # by the product's number

Record = dict[str, Any]


def make_catalogue(
    folder: str | pathlib.Path,
    products: int,
    seed: int,
    overlap: float,
    image_size: int = 96,
    workers: int = 0,
) -> dict[str, int]:
    """Writes `products.jsonl`, `align_pairs.jsonl` and `images/` into a new folder.

    Byte-identical on repeat, whatever the number of workers; the items of the n-th product do not
    depend on how many products there are. Shows a progress bar on a terminal.

    Args:
      folder: must not exist yet; it appears only once it is complete.
      products: how many; each has 1 to 4 items, 2.2 on average.
      seed: at least 0.
      overlap: in [0, 1], the chance that a fact in one modality is repeated in another.
      image_size: pixels on each side of a picture.
      workers: processes that draw, for a large catalogue; 0 draws in this one.

    Returns:
      Counts: "products", "items", "pictures", "pairs", of items "train", "valid", "test", and
      "without picture", "without title", "without triples".

    Raises:
      UserError: the folder exists, or a number is out of range.
    """
    if remote.is_remote(folder):
        raise UserError(f"{folder}: a catalogue is made on a local disk; copy it there afterwards")
    folder = pathlib.Path(folder)
    for name, value, low, high in (
        ("products", products, 1, 999_999),
        ("seed", seed, 0, 2**31),
        ("overlap", overlap, 0, 1),
        ("image_size", image_size, 16, 1024),
        ("workers", workers, 0, 1024),
    ):
        if not low <= value <= high:
            raise UserError(f"{name}: {value} is not between {low} and {high}")
    if folder.exists():
        raise UserError(f"{folder} exists already: remove it, or choose another output")
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    make = functools.partial(make_items, seed, overlap=overlap, image_size=image_size)
    records: list[Record] = []
    made = ordered_map(make, range(products), workers)
    for items in tqdm.tqdm(made, total=products, desc="products", disable=None):
        for record, files in items:
            for path, jpeg in files.items():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).write_bytes(jpeg)
            records.append(record)
    pairs = align_pairs(records, seed)
    for name, rows in (("products.jsonl", records), ("align_pairs.jsonl", pairs)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (unfinished / name).write_text("".join(lines), encoding="utf-8")
    unfinished.rename(folder)

    splits = collections.Counter(record["split"] for record in records)
    return {
        "products": products,
        "items": len(records),
        **{split: splits[split] for split in ("train", "valid", "test")},
        "pictures": sum(len(record["images"]) for record in records),
        "pairs": len(pairs),
        "without picture": sum(not record["images"] for record in records),
        "without title": sum(not record["title"] for record in records),
        "without triples": sum(not record["triples"] for record in records),
    }


def make_items(
    seed: int, number: int, *, overlap: float, image_size: int
) -> list[tuple[Record, dict[str, bytes]]]:
    """The items of one product, each with its pictures: path in the folder -> JPEG."""
    product = draw_product(_stream(seed, number, 0, "product"))
    rng = _stream(seed, number, 0, "items")
    count = 1 + int(rng.choice(4, p=_ITEM_CHANCES))
    group = f"synthetic-{seed}-{number:06d}"
    return [
        _make_item(product, group, seed, number, item, overlap, image_size) for item in range(count)
    ]


def _make_item(
    product: Product,
    group: str,
    seed: int,
    number: int,
    item: int,
    overlap: float,
    image_size: int,
) -> tuple[Record, dict[str, bytes]]:
    color = product.colors[item % len(product.colors)]
    family, category, facts = product.family, product.category, product.facts_in(color)
    rng = _stream(seed, number, item, "presence")
    missing, marked, second = rng.random(3)
    without = ("picture", "title", "triples", None)[min(3, int(missing / MISSING))]
    modalities = assign_modalities(
        family, facts, _stream(seed, number, item, "modalities"), overlap
    )
    title = write_title(
        family, category, facts, modalities, _stream(seed, number, item, "title"), overlap
    )
    triples = write_triples(facts, modalities, _stream(seed, number, item, "triples"))
    views = [] if without == "picture" else ["main", "alt"][: 1 + (second < _SECOND_VIEW)]
    look = Look(
        silhouette=category.silhouette,
        detail=facts[family.detail][0],
        mark=category.mark if marked < overlap else "",
        color=color,
        accent=facts["accent color"][0],
        pattern=facts["pattern"][0],
        shape=facts["shape"][0],
        design=product.design,
    )
    rng = _stream(seed, number, item, "pictures")
    files = {
        f"images/{number // 1000:03d}/{number:06d}-{item}-{view}.jpg": _jpeg(look, rng, image_size)
        for view in views
    }
    return {
        "id": f"{group}-{color}-{item}",
        "product": group,
        "title": "" if without == "title" else title,
        "description": "",
        "triples": [] if without == "triples" else triples,
        "category": category.name,
        "images": list(files),
        "views": views,
        "split": _SPLITS[number % len(_SPLITS)],
        "source": "synthetic",
    }, files


def _jpeg(look: Look, rng: np.random.Generator, image_size: int) -> bytes:
    """One photograph as JPEG."""
    pixels, _ = draw(look, rng, image_size)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(82, 94)))
    return stream.getvalue()


def draw_contact_sheet(
    folder: str | pathlib.Path, path: str | pathlib.Path, each: int = 3, tile: int = 64
) -> None:
    """Draws the first `each` pictures of every category, a family's two one above the other."""
    first: dict[str, list[str]] = collections.defaultdict(list)
    with open(pathlib.Path(folder) / "products.jsonl", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            first[record["category"]] += record["images"][:1]
    sheet = Image.new("RGB", (len(FAMILIES) * tile, 2 * each * tile), "white")
    for column, family in enumerate(FAMILIES):
        for half, category in enumerate(family.categories):
            for row, image in enumerate(first[category.name][:each]):
                picture = Image.open(pathlib.Path(folder) / image).resize((tile, tile))
                sheet.paste(picture, (column * tile, (half * each + row) * tile))
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG", optimize=True)


_PURPOSES = ("product", "items", "presence", "modalities", "title", "triples", "pictures")


def _stream(seed: int, number: int, item: int, purpose: str) -> np.random.Generator:
    """A separate random stream for each purpose, so that overlap changes no product and no pose."""
    return np.random.default_rng([seed, number, item, _PURPOSES.index(purpose)])
