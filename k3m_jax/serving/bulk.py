"""A dump of products to a folder of parts: in bounded memory, shared by processes, resumable.

The dump's lines are cut into parts of `rows` lines. Part 7 becomes `part-00007.parquet`, which is
there whole or not at all. Next to it stand its lines that could not be used, in
`_part-00007.rejects.jsonl`, and parts of lines that were repaired or left out, in
`_part-00007.repairs.jsonl`. So a command that was killed goes on with the parts that lack a file,
and a part is the same whichever process writes it. `_plan.json` keeps what the parts are of, and
which lines repeat an earlier id. Whoever reads the folder as one Parquet data set passes over names
with an underscore.
"""

import array
import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from tqdm import tqdm

from k3m_jax.data.build.record_builder import RecordBuilder
from k3m_jax.data.catalog.readers import RawLine
from k3m_jax.data.records import Record, RejectedLine
from k3m_jax.data.workers import ordered_map
from k3m_jax.modalities.base import Modality
from k3m_jax.settings import UserError

PLAN = "_plan.json"
SUFFIXES = ("parquet", "jsonl")


class Share(NamedTuple):
    """Which of the parts a process writes: number `index` from 1 on of `count` processes."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """From 3/8; raises UserError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"--part={text}: i/n is expected, as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(index), int(count))


@dataclasses.dataclass(frozen=True)
class BulkJob:
    """The parts of one dump in the folder `output`; `about` says what they are of, and how made."""

    build: RecordBuilder
    output: epath.Path
    about: Mapping[str, Any]
    rows: int  # lines of the dump in a part
    modalities: Sequence[Modality] = ()  # whose absence is counted
    suffix: str = "parquet"  # one of `SUFFIXES`
    share: Share = Share()
    split: str = ""  # only lines that name it; "" is all
    workers: int = 0  # processes that read; 0 is this one

    def write(self, answer: Callable[[Iterator[Record]], pa.Table]) -> str:
        """Writes the parts that are missing; returns counts in words.

        `answer` makes the table of a part of its usable records, which are read as it takes them.
        Raises UserError where the folder holds parts of something else, or the dump has changed.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        plan = self._plan()
        parts = range(max(1, -(-plan["lines"] // self.rows)))
        mine = parts[self.share.index - 1 :: self.share.count]
        wanted = {part for part in mine if not self._path(part).exists()}
        repeated, reasons, written = set(plan["repeated"]), collections.Counter(), 0
        repaired = collections.Counter[str]()
        missing = collections.Counter({modality.name: 0 for modality in self.modalities})

        def usable(
            of_part: Iterable[Any], rejects: list[RejectedLine], repairs: list[str]
        ) -> Iterator[Record]:
            for (index, raw), outcome in of_part:
                if isinstance(outcome, RejectedLine):
                    rejects.append(outcome)
                elif index in repeated:
                    detail = f"an earlier record has id {outcome.record.id!r}"
                    rejects.append(RejectedLine(raw.file, raw.line, "repeated_id", detail))
                else:
                    repaired.update(repair.partition(": ")[0] for repair in outcome.repairs)
                    repairs.append(outcome.repair_lines())
                    contents = outcome.record.contents
                    absent = (m for m in self.modalities if not m.is_present(contents[m.name]))
                    missing.update(modality.name for modality in absent)
                    yield outcome.record

        def lines() -> Iterator[tuple[int, RawLine]]:
            catalog = self.build.catalog
            for index, raw in enumerate(catalog.lines()):
                if index // self.rows in wanted and (not self.split or self._chosen(raw)):
                    yield index, raw

        places, raws = itertools.tee(lines())
        outcomes = ordered_map(self.build, (raw for _, raw in raws), self.workers)
        total = sum(min(self.rows, plan["lines"] - part * self.rows) for part in wanted)
        found = zip(places, tqdm(outcomes, "products", total, unit=" lines"), strict=True)
        by_part = itertools.groupby(found, lambda pair: pair[0][0] // self.rows)
        empty = ((part, ()) for part in sorted(wanted) if not self._path(part).exists())
        for part, of_part in itertools.chain(by_part, empty):
            rejects: list[RejectedLine] = []
            repairs: list[str] = []
            table = answer(usable(of_part, rejects, repairs))
            lines_of = (json.dumps(vars(each), ensure_ascii=False) + "\n" for each in rejects)
            self._save(part, table, rejects="".join(lines_of), repairs="".join(repairs))
            reasons.update(reject.reason for reject in rejects)
            written += len(table)
        kept = len(mine) - len(wanted)
        return (
            f"{written:,} rows in {len(wanted):,} parts: {self.output}"
            + (f"\n  there already  {kept:,} parts" if kept else "")
            + f"\n  missing        {json.dumps(dict(missing))}"
            + f"\n  repaired       {json.dumps(dict(sorted(repaired.items())))}"
            + f"\n  set aside      {json.dumps(dict(reasons.most_common()))}"
        )

    def _plan(self) -> dict[str, Any]:
        """The plan of the folder; made, by one pass over the dump, where there is none yet."""
        catalog = self.build.catalog
        sizes = {str(file): file.stat().length for file in catalog.files()}
        about = {**self.about, "rows": self.rows, "files": self.suffix, "input": sizes}
        about |= {"split": self.split} if self.split else {}
        path = self.output / PLAN
        if path.exists():
            plan = json.loads(path.read_text(encoding="utf-8"))
            if changed := [key for key in about if plan["about"].get(key) != about[key]]:
                reason = f"{self.output} holds parts of another {changed[0]}"
                raise UserError(f"--output: {reason}: name another folder, or remove this one")
            return plan
        if any(not path.name.startswith("_") for path in self.output.iterdir()):
            raise UserError(f"--output: {self.output} is not empty, and holds no {PLAN}")
        digests = array.array("Q")  # 8 bytes an item: all ids must fit into memory
        places = array.array("Q")
        lines = 0
        for raw in tqdm(catalog.lines(), "reading", unit=" lines"):
            product = catalog.read(raw)
            if not isinstance(product, RejectedLine):
                digest = hashlib.blake2b(product.id.encode(), digest_size=8).digest()
                digests.append(int.from_bytes(digest))
                places.append(lines)
            lines += 1
        repeated = _repeated(np.frombuffer(digests, np.uint64), np.frombuffer(places, np.uint64))
        plan = {"about": about, "lines": lines, "repeated": repeated}
        write_whole(path, (json.dumps(plan, ensure_ascii=False) + "\n").encode())
        return json.loads(path.read_text(encoding="utf-8"))

    def _chosen(self, raw: RawLine) -> bool:
        product = self.build.catalog.read(raw)
        return isinstance(product, RejectedLine) or product.split == self.split

    def _path(self, part: int) -> epath.Path:
        return self.output / f"part-{part:05d}.{self.suffix}"

    def _save(self, part: int, table: pa.Table, **lines: str) -> None:
        """The part's own file comes last, after those of `lines`: where it is, all is."""
        for kind, text in lines.items():
            if text:
                write_whole(self.output / f"_part-{part:05d}.{kind}.jsonl", text.encode())
        write_table(self._path(part), table)


def _repeated(digests: np.ndarray, places: np.ndarray) -> list[int]:
    """The places, ascending, whose digest an earlier place has too."""
    order = np.argsort(digests, kind="stable")
    again = order[1:][digests[order[1:]] == digests[order[:-1]]]
    return np.sort(places[again]).tolist()


def write_table(path: epath.Path, table: pa.Table) -> None:
    """Writes a table as Parquet or as JSON lines, by the path's suffix; whole or not at all."""
    if path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        write_whole(path, "".join(lines).encode())
        return
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_whole(path, sink.getvalue())


def write_whole(path: epath.Path, data: Any) -> None:
    """Writes bytes under another name first: a file that is there is complete."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
    partial.replace(path)


def parts_of(folder: epath.Path) -> list[epath.Path]:
    """The Parquet parts of a folder in their order; raises UserError where there is none."""
    if not (parts := sorted(folder.glob("part-*.parquet"))):
        raise UserError(f"{folder} holds no part-*.parquet: python -m launch.embed writes them")
    return parts
