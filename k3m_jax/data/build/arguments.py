"""What a data set is built from and how: the flags of build_shards, and what they rule out."""

import dataclasses
from typing import Literal

from etils import epath

from k3m_jax.data.records import Splitting
from k3m_jax.data.store import codebook as codebooks
from k3m_jax.data.store import shards
from k3m_jax.settings import UserError


@dataclasses.dataclass(frozen=True)
class BuildArguments:
    """The arguments of a build; launch/build_shards.py says what each is for."""

    format: Literal["jsonl", "release"]
    input: str
    output: str
    front_end: Literal["patches", "regions"] = "patches"
    image_size: int = 192
    patch_size: int = 32
    codebook_size: int = 256
    codebook: str = ""  # a data set whose classes of patches are taken; "": fitted to these
    vocabulary_size: int = 8000  # 0: no tokenizer
    region_features: str = ""
    top_classes: int = 8  # with regions
    shards: int = 0  # files per split; 0: by size
    workers: int = 0  # processes; 0: none but this one
    valid_fraction: float = 0.05  # of products whose record names no split
    folds: int = 0  # equal parts of the products, whatever splits they name; 0: none
    fold: int = 0  # the part that is `test`
    overwrite: bool = False
    beam_options: str = ""  # of Apache Beam's pipeline; "": not by Beam

    @property
    def folder(self) -> epath.Path:
        """Where the data set will lie."""
        version = str(shards.K3mProducts.VERSION)
        return epath.Path(self.output) / shards.NAME / self.front_end / version

    @property
    def splitting(self) -> Splitting:
        """What decides a product's split."""
        return Splitting(self.valid_fraction, self.fold, self.folds)

    def check(self) -> None:
        """Raises UserError for the first contradiction."""
        if self.front_end not in ("patches", "regions"):
            raise UserError(f"--front_end: {self.front_end!r} is neither patches nor regions")
        if (self.front_end == "regions") != bool(self.region_features):
            raise UserError("--front_end=regions and --region_features go together: give both")
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise UserError(
                f"--image_size {self.image_size} is not a multiple of --patch_size "
                f"{self.patch_size}"
            )
        if self.front_end == "patches" and self.patch_size % codebooks.GRID:
            raise UserError(f"--patch_size {self.patch_size} is not a multiple of {codebooks.GRID}")
        if self.codebook and self.front_end == "regions":
            raise UserError("--codebook is of patches: regions have the classes of their detector")
        for name, low in (
            ("image_size", 1),
            ("codebook_size", 2),
            ("vocabulary_size", 0),
            ("top_classes", 1),
            ("shards", 0),
            ("folds", 0),
            ("workers", 0),
        ):
            if getattr(self, name) < low:
                raise UserError(f"--{name}: {getattr(self, name)} is less than {low}")
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"--valid_fraction: {self.valid_fraction} is not in [0, 1)")
        if self.folds == 1 or not 0 <= self.fold < max(self.folds, 1):
            raise UserError(
                f"--folds={self.folds} --fold={self.fold}: folds are 0 or 2 and more, and the fold "
                "is one of them, from 0 on"
            )
        if self.folder.exists() and not self.overwrite:
            raise UserError(
                f"{self.folder} exists: choose another --output, or replace it with --overwrite"
            )
