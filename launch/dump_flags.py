"""What the commands have in common that read a dump of products and write parts."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax

from k3m_jax.data.catalog.readers import FORMATS, open_catalog
from k3m_jax.data.store import remote
from k3m_jax.serving import from_pretrained
from k3m_jax.serving.bulk import BulkJob, Share
from k3m_jax.serving.dump import job_of
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings.schema import NonNegativeInt, PositiveInt, option, required


@dataclasses.dataclass(frozen=True, kw_only=True)
class DumpFlags:
    """A model, a dump, and where the parts go."""

    model: str = required("folder that launch.export wrote")
    format: Literal[*FORMATS] = required("how the products are written")
    input: str = required("folder of the products, or the file of a table")
    output: str = required("folder to write the parts to; the same command resumes it")
    mapping: str = option("", "of a table: a preset, or a .toml file that names its columns")
    pictures: str = option("", "folder that the pictures' paths begin at; the input's if empty")
    strict: bool = option(False, "reject a record of which a part can't be used as it is")
    region_features: str = option("", "a detector's regions, see docs/data.md")
    backbone_folder: str = option("", "where the model's frozen eyes are, if not at their own name")
    split: str = option("", "only products whose line names this split")
    rows: PositiveInt = option(16384, "lines of the dump in a part")
    part: str = option("1/1", "which of the parts this process writes, as 2/4")
    workers: NonNegativeInt = option(os.cpu_count(), "processes that read; 0: none but this one")


def open_model(flags: DumpFlags) -> ProductModel:
    """The model, on all devices of this process."""
    return from_pretrained(flags.model, flags.backbone_folder, devices=jax.local_devices())


def job(
    flags: DumpFlags, model: ProductModel, kind: str, how: Mapping[str, Any], **options: Any
) -> BulkJob:
    """The parts to write; `kind` and `how` say what of, in the folder's plan."""
    read = {"strict": flags.strict, "mapping": flags.mapping, "pictures": flags.pictures}
    return job_of(
        model,
        open_catalog(flags.format, flags.input, **read),
        remote.absolute(flags.output),
        {"kind": kind, **how, **read},
        region_features=flags.region_features,
        rows=flags.rows,
        share=Share.parse(flags.part),
        split=flags.split,
        workers=flags.workers,
        **options,
    )
