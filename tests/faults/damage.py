"""What disks, power cuts and people do to files."""

import numpy as np


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))] if data else data


def empty(data: bytes, rng: np.random.Generator) -> bytes:
    return b""


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(max(1, len(data))))
    return data[:start] + bytes(len(data[start : start + 64])) + data[start + 64 :]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    place, changed = int(rng.integers(len(data))), bytearray(data)
    changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


KINDS = {"cut": cut, "empty": empty, "zeros": zeros, "flip": flip, "gone": None}


def inflict(path, kind: str, seed: int = 0) -> None:
    """Damages a file in one of the `KINDS`."""
    if KINDS[kind] is None:
        path.unlink()
    else:
        path.write_bytes(KINDS[kind](path.read_bytes(), np.random.default_rng(seed)))


def files(folder) -> list:
    """All files below a folder, by their paths in it."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
