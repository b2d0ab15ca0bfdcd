"""Nearest products by their vectors, exactly: neighbours, candidate duplicates, and their quality.

All vectors are in memory, split over the devices of this process; each device finds the best of its
rows, and the best of these are the best of all, the earlier row first where two tie.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from k3m_jax import metrics
from k3m_jax.parallel.mesh import make_mesh
from k3m_jax.serving.bulk import parts_of
from k3m_jax.serving.dump import vectors_of
from k3m_jax.settings import Mesh, UserError

QUERIES = 256  # at a time, at most
SIMILARITIES = 1 << 26  # of a device, in memory at a time


class Items(NamedTuple):
    """The N items of a folder of vectors, in their order."""

    ids: list[str]
    products: list[str]
    vectors: np.ndarray  # [N, D] float32, of length 1: products of two are cosines

    @classmethod
    def read(cls, folder: epath.PathLike) -> "Items":
        """What `launch.embed` wrote; raises UserError where nothing has been written yet."""
        ids, products, vectors = [], [], []
        for path in parts_of(epath.Path(folder)):
            with path.open("rb") as file:
                table = pq.read_table(file)
            ids += table["id"].to_pylist()
            products += table["product"].to_pylist()
            vectors.append(vectors_of(table))
        return cls(ids, products, unit(np.concatenate(vectors)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] with length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths, lengths, 1)


class VectorIndex:
    """Exact search by the largest scalar product."""

    def __init__(self, vectors: np.ndarray, devices: Sequence[jax.Device] | None = None):
        """Places vectors [N, D], N > 0, on `devices`; None is all of this process."""
        mesh = make_mesh(Mesh(data=-1), devices or jax.local_devices())
        self.size, self._rows = len(vectors), -(-len(vectors) // mesh.size)
        rows = NamedSharding(mesh, PartitionSpec("data"))
        padded = np.pad(vectors, [(0, self._rows * mesh.size - self.size), (0, 0)])
        self._vectors = jax.device_put(padded, rows)
        self._search = functools.partial(self._compiled, mesh)
        self._programs: dict[int, Any] = {}

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Queries [Q, D] -> scores [Q, k'] and rows [Q, k'], best first; k' is min(k, N)."""
        k, scores, rows = min(k, self.size), [], []
        step = max(1, min(QUERIES, SIMILARITIES // self._rows))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            filled = np.pad(part, [(0, step - len(part)), (0, 0)])
            found = self._search(k)(self._vectors, filled)
            for each, array in zip((scores, rows), found, strict=True):
                each.append(np.asarray(array)[: len(part)])
        empty = np.zeros((0, k))
        return np.concatenate([empty, *scores]), np.concatenate([empty.astype(int), *rows])

    def neighbours(self, queries: np.ndarray, own: Sequence[int], k: int) -> Iterator[np.ndarray]:
        """Of each query, which is row `own` itself, its k nearest others: (scores, rows) [2, k]."""
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            for row, scores, rows in zip(
                own[part], *self.search(queries[part], k + 1), strict=True
            ):
                keep = rows != row
                yield np.stack([scores[keep][:k], rows[keep][:k]])

    def _compiled(self, mesh: Any, k: int) -> Any:
        if k not in self._programs:
            size, rows = self.size, self._rows

            def best(vectors: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
                place = jax.lax.axis_index("data") * rows + jnp.arange(rows)
                scores = jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)
                scores = jnp.where(place < size, scores, -jnp.inf)
                top, at = jax.lax.top_k(scores, min(k, rows))
                return top, place[at]

            def search(vectors: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
                by_device = PartitionSpec("data"), PartitionSpec()
                columns = PartitionSpec(None, "data")
                options = {"mesh": mesh, "in_specs": by_device, "out_specs": (columns, columns)}
                top, place = jax.shard_map(best, **options)(vectors, queries)
                top, at = jax.lax.top_k(top, k)
                return top, jnp.take_along_axis(place, at, 1)

            self._programs[k] = jax.jit(search)
        return self._programs[k]


class Threshold(NamedTuple):
    """Above which cosine two items are taken for one product; how right that is, elsewhere."""

    cosine: float
    f1: float  # on the half of the pairs that the threshold was not chosen on
    auc: float
    pairs: int


def choose_threshold(items: Items, path: epath.PathLike) -> Threshold:
    """The cosine with the best F1 on every second of the labelled pairs of a file.

    Lines are as in `align_pairs.jsonl`: `a`, `b` and `label`; those whose items have no vector are
    left out. Raises UserError where pairs of both labels are lacking.
    """
    row = {item: index for index, item in enumerate(items.ids)}
    path, scored, labels = epath.Path(path), [], []
    if not path.exists():
        raise UserError(f"--pairs: there is no file {path}")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            pair = json.loads(line)
            a, b, label = pair["a"], pair["b"], pair["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--pairs: {path} line {number} is no labelled pair: {error}"
            ) from error
        if a in row and b in row and a != b:
            scored.append(float(items.vectors[row[a]] @ items.vectors[row[b]]))
            labels.append(label == 1)
    scores, labels = np.array(scored), np.array(labels, bool)
    halves = [(scores[i::2], labels[i::2]) for i in (0, 1)]
    if not all(x.any() and not x.all() for _, x in halves):
        raise UserError(
            f"--pairs: {path} has too few pairs of either label whose items have vectors"
        )
    threshold = metrics.best_threshold(*halves[0])
    (other, truth), weights = halves[1], np.ones((1, len(halves[1][0])))
    f1 = metrics.f1(other >= threshold, truth, weights)[0]
    return Threshold(
        threshold, float(f1), float(metrics.auc(other, truth, weights)[0]), len(scores)
    )


def tables(
    items: Items, index: VectorIndex, k: int, threshold: float | None
) -> tuple[pa.Table, pa.Table | None]:
    """`id`, `product`, lists `neighbours` and `scores` of all items; candidate duplicate pairs.

    A candidate pair has `a`, `b`, `score` at or above the threshold, and `known`, whether the two
    are listed as one product already; the most alike come first. They are among the k neighbours.
    """
    near, pairs = [], {}
    found = index.neighbours(items.vectors, range(len(items.ids)), k)
    for row, (scores, rows) in enumerate(tqdm(found, "neighbours", len(items.ids))):
        near.append(([items.ids[int(other)] for other in rows], scores.tolist()))
        for score, other in zip(scores, rows.astype(int), strict=True):
            if threshold is not None and score >= threshold:
                pairs[min(row, other), max(row, other)] = score
    columns = [items.ids, items.products, *(list(x) for x in zip(*near, strict=True))]
    lists = ("neighbours", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))
    schema = pa.schema([("id", pa.string()), ("product", pa.string()), *lists])
    neighbours = pa.table(columns, schema)
    if threshold is None:
        return neighbours, None
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [
        (items.ids[a], items.ids[b], float(score), items.products[a] == items.products[b])
        for (a, b), score in ordered
    ]
    kinds = pa.string(), pa.string(), pa.float32(), pa.bool_()
    schema = pa.schema(list(zip(("a", "b", "score", "known"), kinds, strict=True)))
    columns = [list(x) for x in zip(*rows, strict=True)] or [[]] * 4
    return neighbours, pa.table(columns, schema)
