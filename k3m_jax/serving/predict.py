"""Answers about a dump of products in files: what `launch.predict` does (docs/serving.md)."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from etils import epath

from k3m_jax.data.records import Record, RejectedLine
from k3m_jax.data.workers import ordered_map
from k3m_jax.serving import answers
from k3m_jax.serving.bulk import BulkJob, write_table
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError

STRINGS, NUMBERS = pa.list_(pa.string()), pa.list_(pa.float32())
IDENTITY = [("id", pa.string()), ("product", pa.string()), ("property", pa.string())]
PAIRED = [("a", pa.string()), ("b", pa.string())]
PAIR_SCHEMA = pa.schema([*PAIRED, ("probability", pa.float32()), ("same", pa.bool_())])


def class_table(model: ProductModel, records: Iterable[Record], k: int) -> pa.Table:
    """The k most probable classes of each product: `id`, `product`, `property`, and lists
    `values` and `probabilities`, the best first; `property` is the label, such as category."""
    task, seen = model.require_head("classification").task, []

    def noted() -> Iterator[Record]:
        for record in records:
            seen.append((record.id, record.product, task.label))
            yield record

    found = model.classify(noted(), k)
    return _table(seen, found, "probabilities")


def value_table(
    model: ProductModel,
    records: Iterable[Record],
    k: int,
    properties: Sequence[str] = (),
    *,
    missing: bool = False,
) -> pa.Table:
    """The k best values of each property of each product: `id`, `product`, `property`, and lists
    `values` and `scores`, the best first. () are all properties; `missing` is those that a product
    lacks alone."""
    properties = properties or model.completion.properties
    rows, found = [], []
    for record, name, scored in model.completion(records, properties, k, missing=missing):
        rows.append((record.id, record.product, name))
        found.append(scored)
    return _table(rows, found, "scores")


def _table(rows: Sequence[tuple[str, ...]], found: Sequence[answers.Scored], kind: str) -> pa.Table:
    names = [[name for name, _ in scored] for scored in found]
    numbers = [[number for _, number in scored] for scored in found]
    columns = [*map(list, zip(*rows, strict=True))] if rows else [[], [], []]
    schema = pa.schema([*IDENTITY, ("values", STRINGS), (kind, NUMBERS)])
    return pa.table([*columns, names, numbers], schema)


class CandidatePair(NamedTuple):
    """Two items that may be one product, with the pictures that show them, "" for their own."""

    a: str
    b: str
    a_image: str = ""
    b_image: str = ""


def read_candidates(path: epath.PathLike) -> list[CandidatePair]:
    """The lines of a file of pairs, JSON objects with `a` and `b`; other keys are ignored.

    Raises UserError for a file that is not there, or a line that is no pair, by its number.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise UserError(f"--pairs: there is no file {path}")
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            texts = [fields.get(name) or "" for name in CandidatePair._fields]
        except (ValueError, AttributeError) as error:
            raise UserError(f"--pairs: {path} line {number} is no JSON object: {error}") from error
        if not all(isinstance(text, str) for text in texts) or not (texts[0] and texts[1]):
            raise UserError(f"--pairs: {path} line {number}: a and b must be ids")
        found.append(CandidatePair(*texts))
    return found


def predict_pairs(job: BulkJob, model: ProductModel, pairs: Sequence[CandidatePair]) -> str:
    """Writes `pairs.parquet`, or .jsonl: `a`, `b`, `probability` that they are one product, and
    `same`, whether that is above the exported threshold (of an even chance where there is none).

    The vectors of the items that the pairs name are in memory. Pairs of items that can't be used
    are listed in `_pairs.rejects.jsonl`. Returns counts in words.
    """
    head = model.require_head("alignment")
    wanted: dict[str, dict[tuple[str, str], None]] = {}  # of an item: (side, picture)
    for pair in pairs:
        wanted.setdefault(pair.a, {})["first", pair.a_image] = None
        wanted.setdefault(pair.b, {})["second", pair.b_image] = None
    ids: list[tuple[str, str, str]] = []
    rejects: list[RejectedLine] = []
    build, seen = job.build, set()

    def views() -> Iterator[Record]:
        for outcome in ordered_map(build, build.catalog.lines(), job.workers):
            if isinstance(outcome, RejectedLine):
                rejects.append(outcome)
                continue
            record = outcome.record
            if record.id not in wanted or record.id in seen:
                continue
            seen.add(record.id)
            for side, picture in wanted[record.id]:
                item = record
                if picture and picture != outcome.picture:
                    own = record.contents["image"]
                    other = dataclasses.replace(own, jpeg=build.view(picture), class_ids=None)
                    contents = {**record.contents, "image": other}
                    item = dataclasses.replace(record, contents=contents)
                ids.append((record.id, side, picture))
                yield answers.as_shown(head.task, item, (), side)

    vectors = model.embed(views())
    row = {key: index for index, key in enumerate(ids)}
    usable, unknown = [], []
    for pair in pairs:
        keys = (pair.a, "first", pair.a_image), (pair.b, "second", pair.b_image)
        (usable if all(key in row for key in keys) else unknown).append((pair, *keys))
    sides = ([row[keys[i]] for _, *keys in usable] for i in (0, 1))
    logits = answers.pair_logits(model, *(vectors[side] for side in sides))
    columns = [[pair[i] for pair, *_ in usable] for i in (0, 1)]
    same = logits >= (head.threshold or 0.0)
    table = pa.table([*columns, np.exp(-np.logaddexp(0, -logits)), same], PAIR_SCHEMA)
    job.output.mkdir(parents=True, exist_ok=True)
    path = job.output / f"pairs.{job.suffix}"
    write_table(path, table)
    lines = [{"a": pair.a, "b": pair.b, "reason": "unknown_item"} for pair, *_ in unknown]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (job.output / "_pairs.rejects.jsonl").write_text(text, encoding="utf-8")
    return (
        f"{len(usable):,} pairs, {int(same.sum()):,} of one product: {path}\n"
        f"  set aside  {len(unknown):,} pairs of items that are not in the dump or can't be used"
    )
