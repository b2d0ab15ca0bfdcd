"""Folders of products as they come, for a run to be measured on: built into shards that fit it."""

import hashlib
from collections.abc import Iterator, Sequence

from absl import logging
from etils import epath

from k3m_jax.data.align_pairs import PAIRS
from k3m_jax.data.build_arguments import BuildArguments
from k3m_jax.data.building import build
from k3m_jax.data.shards import REJECTS, ShardSet, open_shards
from k3m_jax.settings import UserError

PRODUCTS = "products.jsonl"


def open_sources(sources: Sequence[str], own: ShardSet, workdir: epath.Path) -> list[ShardSet]:
    """Opens data sets; of a folder with a products.jsonl, one built of it.

    It is built once, in the run's folder, with the picture sizes and the classes of the run's own
    data set; a folder of which a text or a picture's size has changed is built anew.

    Args:
      sources: folders of either kind.
      own: a data set that the run learned from.
      workdir: of the run.

    Raises:
      UserError: one can't be opened or built.
    """
    return [
        _built(folder, own, workdir)
        if (epath.Path(folder) / PRODUCTS).exists()
        else open_shards(folder)
        for folder in sources
    ]


def _built(source: str, own: ShardSet, workdir: epath.Path) -> ShardSet:
    if own.info.front_end != "patches":
        raise UserError(
            f"{source} is a catalogue without region features, and the run looks at regions: name "
            "shards, python -m launch.build_shards --front_end=regions"
        )
    arguments = BuildArguments(
        "jsonl",
        source,
        str(workdir / "catalogues" / digest(source, own.info.fingerprint)),
        image_size=own.info.image_size,
        patch_size=own.info.patch_size,
        vocabulary_size=0,  # the run has its own
        codebook=str(own.folder),
    )
    made = open_shards(arguments.folder) if arguments.folder.exists() else build(arguments)
    if made.info.rejects:
        told = ", ".join(f"{count} {reason}" for reason, count in made.info.rejects.items())
        logging.warning("%s: set aside %s; see %s", source, told, made.folder / REJECTS)
    return made


def digest(source: epath.PathLike, salt: str = "") -> str:
    """Of a folder of products as it is now: its texts, and the sizes of all files in it."""
    folder, found = epath.Path(source), hashlib.blake2b(salt.encode(), digest_size=8)
    for path in (folder / PRODUCTS, folder / PAIRS):
        found.update(path.read_bytes() if path.exists() else b"")
    for path in _files(folder):
        found.update(
            f"{path.relative_to(folder)}\0{path.stat().length}\0".encode(errors="surrogateescape")
        )
    return found.hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder, in a fixed order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
