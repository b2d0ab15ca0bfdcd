"""The groups of settings: of the model and its input, of what is learned, and of a run."""

import dataclasses
import math
import re
import typing
from typing import Annotated, Literal, Self

from k3m_jax.settings.presets import PRESETS
from k3m_jax.settings.schema import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UserError,
    check_choice,
    check_multiple,
    option,
    required,
)

Axis = Annotated[int, Range(-1)]
TextLength = Annotated[int, Range(4)]  # in tokens: [CLS], two of content, [SEP]
Temperature = Annotated[float, Range(1e-3)]


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Sizes that an example is padded or cut to; tokens include [CLS] and [SEP]."""

    title: TextLength = option(36, "T, tokens of a title")
    knowledge: TextLength = option(128, "K, tokens of all triples")
    triples: PositiveInt = option(24, "X, triples of an item that the model sees")
    candidate: TextLength = option(24, 'L, tokens of one "property value" text')


@dataclasses.dataclass(frozen=True)
class Packing:
    """Training texts one after another in rows of one length (docs/performance.md)."""

    texts: bool = option(True, "pack them, where the preset can; else each is padded")
    products: NonNegativeInt = option(0, "that share rows; 0: as many as a device allows")
    rows: NonNegativeInt = option(0, "that they share; 0: what a sample of the data needs")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Which frozen vision model made the region features, and how; filled in from the data set."""

    model: str = option("", "its name or folder, as in launch.extract_regions; empty: not known")
    weights: str = option("", "fingerprint of its weights")
    size: NonNegativeInt = option(0, "pixels a side of the picture that it saw")
    grid: NonNegativeInt = option(0, "cells a side; 0: boxes of a detector")


@dataclasses.dataclass(frozen=True)
class Image:
    """What a picture is cut into."""

    front_end: Literal["patches", "regions"] = option("patches", "pixels, or a detector's features")
    regions: PositiveInt = option(36, "N = R - 1, the global one not counted; patches: a square")
    patch_size: PositiveInt = option(32, "pixels; pictures have sqrt(regions) * patch_size a side")
    feature_dim: PositiveInt = option(2048, "width of a detector's region feature")
    classes: NonNegativeInt = option(0, "C, of detector or visual codebook; 0: the data set's")
    top_classes: PositiveInt = option(8, "c: most probable classes kept of each region")
    backbone: Backbone = Backbone()

    @property
    def input_dim(self) -> int:
        """F: numbers per region as they enter the image encoder."""
        return self.patch_size**2 * 3 if self.front_end == "patches" else self.feature_dim

    @property
    def side(self) -> int:
        """Pixels along one side of a picture that is cut into patches."""
        return math.isqrt(self.regions) * self.patch_size

    def check_rules(self, key: str) -> None:
        """Raises UserError for patches that are not a square grid."""
        if self.front_end == "patches" and math.isqrt(self.regions) ** 2 != self.regions:
            raise UserError(f"{key}.regions: {self.regions} patches are not a square grid")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Sizes of a stack of Transformer layers."""

    layers: PositiveInt = required("Transformer layers")
    width: PositiveInt = required("width of the stream")
    heads: PositiveInt = required("attention heads, a divisor of the width")
    mlp: PositiveInt = required("width of the feed-forward map")


@dataclasses.dataclass(frozen=True)
class Interactor:
    """Co-attention blocks between two streams."""

    blocks: PositiveInt = option(6, "co-attention blocks")
    width: PositiveInt = option(1024, "width of queries, keys and values, all heads together")
    heads: PositiveInt = option(8, "attention heads, a divisor of the width")
    image_mlp: PositiveInt = option(1024, "feed-forward width of the image stream")
    text_mlp: PositiveInt = option(3072, "feed-forward width of the text stream")
    knowledge: bool = option(False, "both streams also attend to the words of the triples")
    text_layers: tuple[NonNegativeInt, ...] = option((), "release: own layers run before block k")
    image_layers: tuple[NonNegativeInt, ...] = option((), "release: the same of images")


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Initial-interactive feature fusion (docs/method.md)."""

    mode: Literal["mean", "soft", "hard", "interactive"] = option("hard", "how the two are joined")
    temperature_start: Temperature = option(1.0, "of the Gumbel-softmax of mode hard, at first")
    temperature_end: Temperature = option(0.5, "at the last step; it falls geometrically")


@dataclasses.dataclass(frozen=True)
class Structure:
    """Structure aggregation over an item's triples."""

    heads: NonNegativeInt = option(8, "heads, each with its own parameters; 0: c* is c")
    activation: Literal["before", "after"] = option("before", "LeakyReLU before or after w_2")
    residual: Literal["linear", "identity"] = option("linear", "W_3 c or c")
    combine: Literal["mean", "concat"] = option("mean", "heads: averaged, or joined and projected")
    scaled: bool = option(False, "scores divided by the root of the width")


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes and modes of K3M, or of a baseline."""

    preset: str = option("paper", "or release (docs/fidelity.md), a baseline (docs/baselines.md)")
    knowledge_text: bool = option(False, "baselines, +PKG: the triples are text behind the title")
    extra_modalities: tuple[str, ...] = option((), "registered modalities pooled into c as well")
    pooling: Literal["positions", "modalities"] = option(
        "positions", "c: mean of all positions, or of modalities, absent ones learned vectors"
    )
    text: Encoder = option(Encoder(12, 768, 12, 3072), "The text encoder (BERT).")
    image: Encoder = option(Encoder(layers=6, width=1024, heads=8, mlp=1024), "The image encoder.")
    interactor: Interactor = Interactor()
    fusion: Fusion = Fusion()
    structure: Structure = Structure()
    vocabulary: NonNegativeInt = option(0, "V, tokens; 0: as the tokenizer says")
    positions: PositiveInt = option(512, "rows of the text encoder's position table")
    dropout: Fraction = option(0.1, "dropout rate in encoders and interactor, in 256ths")
    dtype: Literal["bfloat16", "float32"] = option("bfloat16", "of activations, not parameters")
    remat: bool = option(False, "recompute layers in the backward pass: less memory, 1/3 slower")
    unroll: bool = option(False, "compile each layer by itself: faster on a GPU (docs/gpu.md)")

    def check_rules(self, key: str) -> None:
        """Raises UserError for heads that don't divide a width, or what the preset lacks."""
        for name in ("text", "image", "interactor"):
            part = getattr(self, name)
            check_multiple(f"{key}.{name}.width", part.width, f"{key}.{name}.heads", part.heads)
        check_choice(f"{key}.preset", self.preset, PRESETS)
        preset, mixed = PRESETS[self.preset], self.interactor
        if self.knowledge_text and "knowledge" in preset.modalities:
            raise UserError(f"{key}.knowledge_text: preset {self.preset!r} does not use it")
        if (mixed.text_layers or mixed.image_layers) and not preset.layer_schedule:
            raise UserError(f"{key}.interactor.text_layers, image_layers: none in {self.preset!r}")


@dataclasses.dataclass(frozen=True)
class Weighted:
    """An objective with its weight; the released ones have nothing else."""

    weight: NonNegativeFloat = option(1.0, "weight in the total loss")


@dataclasses.dataclass(frozen=True)
class MaskedLanguage(Weighted):
    """MLM: masked language modelling of the title."""

    rate: Fraction = option(0.15, "share of title tokens that are prediction targets")


@dataclasses.dataclass(frozen=True)
class MaskedObject(Weighted):
    """MOM: masked object modelling."""

    rate: Fraction = option(0.15, "share of regions that are prediction targets")
    variant: Literal["kl", "regression", "nce"] = option("kl", "target: classes or features")


@dataclasses.dataclass(frozen=True)
class LinkPrediction(Weighted):
    """LPM: link prediction of a hidden triple; preset paper only."""

    margin: NonNegativeFloat = option(1.0, "γ, margin between true and false triples")
    norm: Literal["l1", "l2"] = option("l2", "norm of the distance")
    negative_values: NonNegativeInt = option(4, "N: other values of the queried property")
    negative_items: NonNegativeInt = option(1, "O: other products of the item's group of rows")


@dataclasses.dataclass(frozen=True)
class SecondView(Weighted):
    """Holds an item's vector where a modality is missing or wrong; objectives.extra=("view",)."""

    temperature: Temperature = option(0.07, "cosines are divided by it")
    wrong: Fraction = option(1 / 3, "share of views with another's title, picture or both")
    same_product: Fraction = option(0.0, "pull of each other item of the product; its own view: 1")


@dataclasses.dataclass(frozen=True)
class Objectives:
    """Pretraining objectives; the loss is the weighted sum of those of the preset."""

    mlm: MaskedLanguage = MaskedLanguage()
    mom: MaskedObject = MaskedObject()
    lpm: LinkPrediction = LinkPrediction()
    view: SecondView = SecondView()
    mvm: Weighted = option(Weighted(), "MVM: masked values of triples; preset release only.")
    structure: Weighted = option(Weighted(), "Is c* this product's? Preset release only.")
    extra: tuple[str, ...] = option((), "registered objectives besides those of the preset")
    group: PositiveInt = option(16, "G, rows that are each other's negatives (docs/method.md)")


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is wrong with the items of a split (docs/robustness.md)."""

    setting: Literal[
        "TMR", "IMR", "MMR", "TNR", "INR", "TINR", "MNR", "KMR", "KNR", "TOR", "IOR"
    ] = option(
        "TMR",
        "title, image, modality or knowledge is missing (MR) or another product's (NR); title or "
        "image is the only one left (OR)",
    )
    rate: Fraction = option(0.0, "share of the items that are corrupted")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From setting and per cent, as in TNR80; `clean` is none. Raises UserError for others."""
        if text == "clean":
            return cls()
        kinds = "|".join(typing.get_args(cls.__annotations__["setting"]))
        if not (found := re.fullmatch(rf"({kinds})(\d\d?|100)", text)):
            raise UserError(f"corruption {text!r}: {kinds} and per cent, as in TNR80, or clean")
        return cls(found[1], int(found[2]) / 100)

    def __str__(self) -> str:
        return f"{self.setting}{100 * self.rate:.4g}" if self.rate else ""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where products come from."""

    sources: tuple[str, ...] = option((), "folders written by launch.build_shards, local or remote")
    copy: Literal["auto", "always", "never"] = option(
        "auto", "shards in a store to this disk; auto: where they fit, or the store is not gs://"
    )
    weights: tuple[PositiveFloat, ...] = option((), "share of a source; () is by number of items")
    train_split: str = option("train", "the split to train on")
    valid_split: str = option("valid", "the split of held-out evaluation")
    train_corruption: Corruption = option(Corruption(), "Corruption of training items.")
    valid_corruption: Corruption = option(Corruption(), "Corruption of held-out items.")
    siblings: bool = option(False, "every other row: another item of the product before it, if any")
    tokenizer: str = option("", 'a Hugging Face tokenizer folder; "": that of the first source')
    unreadable: NonNegativeInt = option(100, "damaged records of a split left out by each process")
    workers: NonNegativeInt = option(0, "processes that prepare batches; 0: threads of this one")
    threads: PositiveInt = option(2, "of each process; more where reads are slow (docs/scaling.md)")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up and linear decay to 0."""

    learning_rate: NonNegativeFloat = option(1e-4, "at the end of warm-up")
    warmup: Fraction = option(0.1, "share of the steps")
    b1: Fraction = option(0.9, "decay of the gradient's mean")
    b2: Fraction = option(0.98, "decay of the gradient's square")
    eps: NonNegativeFloat = option(1e-8, "added to its root")
    weight_decay: NonNegativeFloat = option(0.01, "not on biases and LayerNorm")
    clip_norm: NonNegativeFloat = option(1.0, "of the global gradient; 0 is no clipping")
    imported_rate: NonNegativeFloat = option(1.0, "rate factor of what init_from gave; 0: freeze")


@dataclasses.dataclass(frozen=True)
class Training:
    """Length and rhythm of a run; all counts are in steps."""

    steps: PositiveInt = option(100_000, "length of the run")
    batch: PositiveInt = option(256, "B, items per step, of all devices together")
    accumulation: PositiveInt = option(1, "micro-batches per step")
    one_batch: bool = option(False, "every step sees the first step's batch, to memorise it")
    log_every: PositiveInt = option(10, "steps between lines of metrics")
    eval_every: NonNegativeInt = option(2_000, "held-out evaluation; 0 is at the end only")
    checkpoint_every: PositiveInt = option(1_000, "steps between checkpoints")
    keep: PositiveInt = option(3, "most recent checkpoints kept, besides the best")
    keep_every: NonNegativeInt = option(0, "keep those of multiples of so many steps; 0: none")
    profile_start: NonNegativeInt = option(0, "first step of the profiler's window")
    profile_steps: NonNegativeInt = option(0, "length of the profiler's window; 0 is none")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out evaluation."""

    batch: PositiveInt = option(256, "products at a time; a multiple of mesh.data x mesh.fsdp")
    products: NonNegativeInt = option(0, "the first of each source's split; 0 is all")
    stability: NonNegativeInt = option(2000, "the first items that stability is of; 0: none")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices per axis; one axis may be -1: all that the others leave."""

    data: Axis = option(-1, "splits the rows of a batch")
    fsdp: Axis = option(1, "splits the rows of a batch, parameters and optimizer state")
    tensor: Axis = option(1, "splits attention heads, feed-forward maps and the vocabulary")


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes that train as one (docs/distributed.md)."""

    coordinator: str = option("auto", "auto: as the cluster says; off; or HOST:PORT of process 0")
    processes: NonNegativeInt = option(0, "with HOST:PORT: how many processes there are")
    process: NonNegativeInt = option(0, "with HOST:PORT: which of them this is, from 0 on")
    timeout: PositiveInt = option(600, "most seconds of a step, compilation or other wait")

    def check_rules(self, key: str) -> None:
        """Raises UserError for a coordinator and processes that do not fit together."""
        if self.coordinator in ("auto", "off"):
            if self.processes or self.process:
                raise UserError(f"{key}.process and .processes need {key}.coordinator=HOST:PORT")
        elif not re.fullmatch(r".+:\d+", self.coordinator):
            raise UserError(f"{key}.coordinator: expected auto, off or HOST:PORT")
        elif self.process >= self.processes:
            raise UserError(f"{key}.process {self.process}: {key}.processes is {self.processes}")


@dataclasses.dataclass(frozen=True)
class Debug:
    """Switches for finding a fault on one host."""

    nans: bool = option(False, "stop at the operation that first makes a NaN")
    deterministic: bool = option(False, "deterministic kernels on a GPU")
    memory_fraction: Fraction = option(0.0, "of the GPU's memory for jax; 0 is its default")
    disable_jit: bool = option(False, "run operation by operation, for a debugger")
