"""Digests of arrays where they lie, on any mesh: the same bits give the same digest.

Each element's bits, as a whole number, are multiplied by an odd factor of its place in the whole
array, and the products are added modulo 2^64. Such sums are exact in any order, so every process
adds up the parts that its devices hold, and only the sums are exchanged: nothing is gathered, and a
checkpoint that is restored onto another mesh is verified all the same. A change of one element
always changes the digest, any other but once in more than 2^32 times.

NumPy does this on the host: a program of the devices would be compiled for half a minute.
"""

import concurrent.futures
import functools
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from k3m_jax.parallel.shardings import path_name

PART = 1 << 22  # elements that are computed at a time: 32 MB as 8 bytes each
THREADS = min(8, os.cpu_count() or 1)


def digests(tree: Any, prefix: str = "") -> dict[str, str]:
    """The digest of each array of a tree, by its path: dtype, shape and 16 hexadecimal digits.

    In a run of several processes, all must call it alike.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        sums = np.array([*pool.map(_local_sum, (x for _, x in leaves))], np.uint64)
    if jax.process_count() > 1:  # as halves: jax has no 64 bits unless told so
        halves = multihost_utils.process_allgather(sums.view(np.uint32))
        sums = np.ascontiguousarray(halves).view(np.uint64).sum(0, dtype=np.uint64)
    found = {}
    for (path, x), total in zip(leaves, sums.tolist(), strict=True):
        shape = ",".join(map(str, np.shape(x)))
        found[prefix + path_name(path)] = f"{x.dtype.name}[{shape}]:{total:016x}"
    return found


def _local_sum(x: jax.Array | np.ndarray) -> int:
    """The sum over the parts of an array that this process answers for."""
    if not isinstance(x, jax.Array):
        return _sum(np.asarray(x), (0,) * np.ndim(x))
    total = 0
    for shard in x.addressable_shards:
        if shard.replica_id == 0:  # of several copies, one counts
            start = tuple(index.start or 0 for index in shard.index)
            total += _sum(np.asarray(shard.data), start)
    return total % (1 << 64)


def _sum(block: np.ndarray, start: tuple[int, ...]) -> int:
    """That of a block of an array, which begins at `start`."""
    words = block.reshape(block.shape or (1,))
    start = start or (0,)
    if block.dtype.itemsize == 8:  # two words: else the highest bits of two would cancel out
        words, start = np.ascontiguousarray(words)[..., None].view(np.uint32), (*start, 0)
    else:
        words = np.ascontiguousarray(words).view(f"uint{8 * block.dtype.itemsize}")
    if not words.size:
        return 0
    factors = [
        _factors(dimension, first + size)[first:]
        for dimension, (first, size) in enumerate(zip(start, words.shape, strict=True))
    ]
    rows = max(1, PART * len(words) // words.size)
    total = 0
    for row in range(0, len(words), rows):
        part = words[row : row + rows].astype(np.uint64)
        for each in reversed(factors[1:]):
            part = part @ each
        total += int((part * factors[0][row : row + rows]).sum(dtype=np.uint64))
    return total % (1 << 64)


@functools.lru_cache(256)
def _factors(dimension: int, size: int) -> np.ndarray:
    """Odd numbers for the places of a dimension, uint64 [size], from a counter (SplitMix64)."""
    x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64((dimension + 1) * 0xD1342543DE82EF95 % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
