"""The public release's own format of products: `--format=release`."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from k3m_jax.data.catalog.readers import CatalogReader, RawLine
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.settings import UserError


class ReleaseReader(CatalogReader):
    """The release's TSV, one file per split and named after it, of products without pictures."""

    def files(self) -> list[epath.Path]:
        files = sorted(self.folder.glob("*.tsv"))
        if not files:
            raise UserError(f"--input: there is no .tsv file, such as train.tsv, in {self.folder}")
        return files

    def fields(self, raw: RawLine, repairs: list[str]) -> Mapping[str, Any]:
        columns = raw.data.decode().rstrip("\r\n").split("\t")
        if len(columns) != 5:
            detail = f"{len(columns)} columns, not id, title, image, triples, category"
            raise InvalidRecordError("wrong_columns", detail)
        item, title, _, triples, category = columns  # the picture's address isn't read
        pairs = []
        for i, text in enumerate(triples.split("#;#") if triples.strip() else ()):
            if len(pair := text.split("#:#", 1)) == 2:
                pairs.append(pair)
            elif text.strip():
                repairs.append(f"bad_triple: triples[{i}] has no '#:#': {text!r:.60}")
            else:  # a separator too many
                repairs.append("empty_triple")
        product = {"id": item, "title": title, "triples": pairs, "category": category}
        return product | {"split": raw.file.removesuffix(".tsv"), "source": "release"}
