"""A catalogue's vectors to neighbours, duplicates, recall and a gallery: `launch.neighbours`."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from k3m_jax.applications import floors, gallery
from k3m_jax.applications.neighbours import Items, Threshold, VectorIndex, choose_threshold, tables
from k3m_jax.data.build.record_builder import RecordBuilder
from k3m_jax.data.catalog.readers import CatalogReader
from k3m_jax.data.records import Record, RejectedLine
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.evaluation.report import Report, Row, Score
from k3m_jax.serving.bulk import write_table, write_whole
from k3m_jax.serving.dump import record_builder
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import UserError
from k3m_jax.tasks.trivial_baselines import thumbnail

SIDE = 96  # pixels of the gallery's pictures where no model says how many it sees
FILLED = 6  # properties of a product that the gallery fills in, at most


@dataclasses.dataclass(frozen=True)
class Exploration:
    """What to do with the vectors of a catalogue."""

    items: Items
    output: epath.Path
    k: int
    queries: int  # items at most that recall is measured on
    suffix: str = "parquet"

    def __post_init__(self) -> None:
        if len(self.items.ids) < 2:
            raise UserError("--vectors: there are no two items to compare")

    def run(
        self,
        catalog: CatalogReader | None = None,
        model: ProductModel | None = None,
        pairs: str = "",
        shown: int = 0,
    ) -> str:
        """Writes neighbours, duplicates where there are labelled `pairs`, the recall of products
        that have several items and, where there is a `catalog`, floors and a gallery of `shown`.

        Returns the report in words. Raises UserError, as `choose_threshold`.
        """
        items, index = self.items, VectorIndex(self.items.vectors)
        threshold = choose_threshold(items, pairs) if pairs else None
        self.output.mkdir(parents=True, exist_ok=True)
        near, duplicates = tables(items, index, self.k, threshold and threshold.cosine)
        write_table(self.output / f"neighbours.{self.suffix}", near)
        said = [f"{len(near):,} items, {self.k} neighbours each: {self.output}"]
        if threshold:
            write_table(self.output / f"duplicates.{self.suffix}", duplicates)
            said.append(_described(threshold, duplicates))
        own = floors.with_others(items.products, self.queries)
        if len(own):
            others = self._floors(catalog, own) if catalog else {}
            found = index.neighbours(items.vectors[own], own, self.k)
            ours = np.stack([rows for _, rows in found]).astype(int)
            scores = {n: floors.score(x, own, items.products, self.k) for n, x in others.items()}
            score = floors.score(ours, own, items.products, self.k)
            said.append(self._report(own, score, scores))
        if catalog and shown:
            page = self._gallery(catalog, model, index, own, shown, said)
            write_whole(self.output / "gallery.html", page.encode())
            said.append(f"look at {self.output / 'gallery.html'}")
        return "\n".join(said)

    def _report(self, own: Sequence[int], score: Score, others: Mapping[str, Score]) -> str:
        name = f"recall@{self.k}"
        row = Row(name, name, score, others, len(own), "items")
        notes = {"items": len(self.items.ids), "intervals": "bootstrap over products"}
        report = Report("neighbours", "", "all", "", 0, (row,), notes)
        report.write(self.output)
        floored = (f"{name} {x.text(is_rate=True)}" for name, x in others.items())
        said = f"{name} of {len(own):,} items whose product has others: {score.text(is_rate=True)}"
        return "; ".join([said, *floored])

    def _floors(self, catalog: CatalogReader, own: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the nearest titles and pictures of the items `own`."""
        row = {item: number for number, item in enumerate(self.items.ids)}
        titles, pixels = [""] * len(row), np.full((len(row), len(thumbnail(b""))), np.nan, "f4")
        for record in _records(RecordBuilder(catalog, SIDE, 1), row):
            titles[row[record.id]] = record.title
            pixels[row[record.id]] = thumbnail(record.picture)
        near = {"title words": floors.nearest_titles(titles, own, self.k)}
        return {**near, "raw pixels": floors.nearest_pictures(pixels, own, self.k)}

    def _gallery(
        self,
        catalog: CatalogReader,
        model: ProductModel | None,
        index: VectorIndex,
        own: np.ndarray,
        shown: int,
        facts: Sequence[str],
    ) -> str:
        items, rng = self.items, np.random.default_rng(0)
        pool = own if len(own) else np.arange(len(items.ids))
        chosen = np.sort(rng.choice(pool, min(shown, len(pool)), replace=False))
        found = list(index.neighbours(items.vectors[chosen], chosen, self.k))
        rows = itertools.chain(chosen, *(x[1].astype(int) for x in found))
        build = RecordBuilder(catalog, SIDE, 1)
        if model and model.network.settings.image.front_end == "patches":
            build = record_builder(catalog, model.network.settings.image)
        records = {r.id: r for r in _records(build, {items.ids[int(row)] for row in rows})}
        entries = []
        for row, (scores, rows) in zip(chosen, found, strict=True):
            if not (record := records.get(items.ids[int(row)])):
                continue
            near = [records.get(items.ids[int(other)]) for other in rows]
            near = [(r, float(s)) for r, s in zip(near, scores, strict=True) if r]
            names = gallery.lacking(record, [r for r, _ in near])[:FILLED]
            entries.append(gallery.Entry(record, near, _filled(model, record, names)))
        return gallery.render("Products and their neighbours", facts, entries)


def _filled(
    model: ProductModel | None, record: Record, names: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """The three best values of each property; none of what the model can't say."""
    if model is None or model.values is None:
        return {name: [] for name in names}
    known = model.completion.known
    return {
        name: model.complete(record, name, 3) if normalised(name) in known else [] for name in names
    }


def _records(build: RecordBuilder, wanted: Iterable[str] | Mapping[str, Any]) -> Iterable[Record]:
    """The usable records of the ids, the first of each."""
    wanted = set(wanted)
    for raw in tqdm(build.catalog.lines(), "reading", unit=" lines"):
        product = build.catalog.read(raw)
        if isinstance(product, RejectedLine) or product.id not in wanted:
            continue
        outcome = build(raw)
        if not isinstance(outcome, RejectedLine):
            wanted.remove(outcome.record.id)
            yield outcome.record


def _described(threshold: Threshold, duplicates: Any) -> str:
    new = len(duplicates) - sum(duplicates["known"].to_pylist())
    return (
        f"{len(duplicates):,} candidate pairs at cosine {threshold.cosine:.4f} or more, {new:,} of "
        f"them not listed as one product; on the other half of {threshold.pairs:,} labelled pairs "
        f"F1 {threshold.f1:.3f}, AUC {threshold.auc:.3f}"
    )
