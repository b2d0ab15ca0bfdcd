"""The public release's own format of products: `--format=release`."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from k3m_jax.data.catalog.readers import CatalogReader
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.settings import UserError


class ReleaseReader(CatalogReader):
    """The release's TSV, one file per split and named after it, of products without pictures."""

    def files(self) -> list[epath.Path]:
        files = sorted(self.folder.glob("*.tsv"))
        if not files:
            raise UserError(f"--input: there is no .tsv file, such as train.tsv, in {self.folder}")
        return files

    def fields(self, text: str, file: str) -> Mapping[str, Any]:
        columns = text.rstrip("\r\n").split("\t")
        if len(columns) != 5:
            detail = f"{len(columns)} columns, not id, title, image, triples, category"
            raise InvalidRecordError("wrong_columns", detail)
        item, title, _, triples, category = columns  # the picture's address isn't read
        pairs = [pair.split("#:#", 1) for pair in triples.split("#;#")] if triples.strip() else []
        for i, pair in enumerate(pairs):
            if len(pair) != 2:
                detail = f"triples[{i}] has no '#:#': {pair[0]!r:.60}"
                raise InvalidRecordError("bad_triple", detail)
        product = {"id": item, "title": title, "triples": pairs, "category": category}
        return product | {"split": file.removesuffix(".tsv"), "source": "release"}
