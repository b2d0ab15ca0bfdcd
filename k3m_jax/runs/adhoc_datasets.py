"""Folders of products as they come, for a run to be measured on: built into shards that fit it."""

import hashlib
from collections.abc import Iterator, Sequence

from etils import epath

from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build
from k3m_jax.data.store.shards import ShardSet, open_shards
from k3m_jax.settings import UserError

PRODUCTS = "products.jsonl"


def open_sources(sources: Sequence[str], own: ShardSet, workdir: epath.Path) -> list[ShardSet]:
    """Opens data sets; of a folder with a products.jsonl, one built of it.

    It is built once, in the run's folder, with the picture sizes and the classes of the run's own
    data set; a folder of which anything has changed is built anew.

    Args:
      sources: folders of either kind.
      own: a data set that the run learned from.
      workdir: of the run.

    Raises:
      UserError: one can't be opened or built.
    """
    return [_opened(folder, own, workdir) for folder in sources]


def _opened(source: str, own: ShardSet, workdir: epath.Path) -> ShardSet:
    folder = epath.Path(source)
    if (folder / PRODUCTS).exists():
        return _built(source, own, workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{source} is a file: name the folder that it lies in")
    try:
        return open_shards(folder)
    except UserError as error:
        raise UserError(f"{folder} holds neither {PRODUCTS} nor shards: {error}") from error


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
    if not arguments.folder.exists():
        try:
            return build(arguments)
        except FileExistsError:
            # Another process has built it meanwhile: what is there got its name when it was whole.
            pass
    return open_shards(arguments.folder)


def digest(source: epath.PathLike, salt: str = "") -> str:
    """Of a folder of products as it is now: the names of all files in it, and what they hold."""
    folder, found = epath.Path(source), hashlib.blake2b(salt.encode(), digest_size=8)
    for path in _files(folder):
        name, data = str(path.relative_to(folder)), path.read_bytes()
        found.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        found.update(data)
    return found.hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder, in a fixed order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.exists():  # else a link to nothing
            yield path
