"""The one schema of everything configurable.

A configuration file returns `default_config()` with a few keys changed; `Settings.from_config`
turns it into the frozen dataclasses below and refuses what the schema does not know or what
contradicts itself, by the key's name. A size of 0 means "as the data set says"; `Settings.resolved`
fills it in.
"""

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import ml_collections

from k3m_jax.settings import validation
from k3m_jax.settings.schema import Range, UserError, parse

PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]  # a count of which there may be none
Fraction = Annotated[float, Range(0, 1)]
NonNegativeFloat = Annotated[float, Range(0)]
PositiveFloat = Annotated[float, Range(1e-9)]  # 0 is no weight: leave the thing out
TextLength = Annotated[int, Range(4)]  # in tokens: [CLS], two of content, [SEP]
Axis = Annotated[int, Range(-1)]
Temperature = Annotated[float, Range(1e-3)]
Modality = Literal["title", "image", "knowledge"]


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is wrong with the items of a split: the robustness protocol (`data/corruption.py`).

    T, I, M, TI and K are title, image, one of both, both, and knowledge; MR is missing and NR noise
    (another product's).
    """

    setting: Literal["TMR", "IMR", "MMR", "TNR", "INR", "TINR", "MNR", "KMR", "KNR"] = "TMR"
    rate: Fraction = 0.0  # of the items; 0 is none

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of setting and per cent, as `str` writes them: TNR80; `clean` is none.

        Raises UserError for any other.
        """
        if text == "clean":
            return cls()
        kinds = typing.get_args(cls.__annotations__["setting"])
        setting, percent = text.rstrip("0123456789"), text[len(text.rstrip("0123456789")) :]
        if setting not in kinds or not percent or int(percent) > 100:
            raise UserError(
                f"corruption {text!r}: one of {', '.join(kinds)} and the per cent of items is "
                "expected, as in TNR80, or clean"
            )
        return cls(setting, int(percent) / 100)

    def __str__(self) -> str:
        return f"{self.setting}{100 * self.rate:.4g}" if self.rate else ""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where products come from."""

    sources: tuple[str, ...] = ()  # folders written by launch.build_shards, local or remote
    weights: tuple[PositiveFloat, ...] = ()  # of sources in training; () is by number of products
    train_split: str = "train"
    valid_split: str = "valid"
    train_corruption: Corruption = Corruption()
    valid_corruption: Corruption = Corruption()
    tokenizer: str = ""  # a Hugging Face tokenizer folder; "" is the one kept with the first source
    workers: NonNegativeInt = (
        0  # worker processes that prepare batches; 0 is threads of this process
    )
    threads: PositiveInt = (
        2  # of this process or of each worker, with a batch each; for slow reads more
    )


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Sizes that an example is padded or cut to."""

    title: TextLength = 36  # T, [CLS] and [SEP] included
    knowledge: TextLength = 128  # K, [CLS] and [SEP] included
    triples: PositiveInt = 24  # X
    candidate: TextLength = 24  # L, tokens of one "property value" text, [CLS] and [SEP] included


@dataclasses.dataclass(frozen=True)
class Image:
    """What a picture is cut into."""

    front_end: Literal["patches", "regions"] = "patches"
    regions: PositiveInt = (
        36  # N = R - 1, the global region not counted; for patches a square number
    )
    patch_size: PositiveInt = 32  # pixels; the picture is sqrt(regions) * patch_size on each side
    feature_dim: PositiveInt = (
        2048  # width of a detector's region feature (patches: patch_size² · 3)
    )
    classes: NonNegativeInt = 0  # of the detector or of the visual codebook
    top_classes: PositiveInt = 8  # most probable classes kept of each region's distribution

    @property
    def input_dim(self) -> int:
        """F: numbers per region as they enter the image encoder."""
        return self.patch_size**2 * 3 if self.front_end == "patches" else self.feature_dim

    @property
    def grid(self) -> int:
        """Patches along one side of the picture."""
        return math.isqrt(self.regions)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Sizes of a stack of Transformer layers."""

    layers: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    mlp: PositiveInt


@dataclasses.dataclass(frozen=True)
class Interactor:
    """Sizes of the co-attention blocks between two streams."""

    blocks: PositiveInt = 6
    width: PositiveInt = 1024
    heads: PositiveInt = 8
    image_mlp: PositiveInt = 1024
    text_mlp: PositiveInt = 3072
    # `release` alone: how many layers of its own each stream has run before block k.
    text_layers: tuple[NonNegativeInt, ...] = ()
    image_layers: tuple[NonNegativeInt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Initial-interactive feature fusion."""

    mode: Literal["mean", "soft", "hard", "interactive"] = "hard"
    temperature_start: Temperature = 1.0  # of the Gumbel-softmax of `hard`, falling geometrically …
    temperature_end: Temperature = 0.5  # … to this at the last step


@dataclasses.dataclass(frozen=True)
class Structure:
    """Structure aggregation over an item's triples."""

    heads: NonNegativeInt = 8  # 0 is no aggregation: c* is c
    activation: Literal["before", "after"] = "before"  # LeakyReLU before or after w_2
    residual: Literal["linear", "identity"] = "linear"  # W_3 c or c
    combine: Literal["mean", "concat"] = "mean"  # heads averaged, or concatenated and projected


RELEASED_STRUCTURE = Structure(**validation.RELEASED_STRUCTURE)


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes and modes of K3M, or of a baseline."""

    # The method, the authors' public code, or a baseline (docs/baselines.md).
    preset: Literal["paper", "release", "bert", "vilbert", "vlbert", "lxmert"] = "paper"
    knowledge_text: bool = False  # baselines alone, +PKG: the triples are text behind the title
    text: Encoder = Encoder(layers=12, width=768, heads=12, mlp=3072)
    image: Encoder = Encoder(layers=6, width=1024, heads=8, mlp=1024)
    interactor: Interactor = Interactor()
    fusion: Fusion = Fusion()
    structure: Structure = Structure()
    vocabulary: NonNegativeInt = 0  # V, the tokenizer's
    positions: PositiveInt = 512  # rows of the text encoder's position table
    dropout: Fraction = 0.1
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of activations; parameters are float32
    remat: bool = False  # recompute each layer in the backward pass: less memory, about 1/3 slower
    unroll: bool = False  # compile each layer for itself, not once in a loop: faster on a GPU


@dataclasses.dataclass(frozen=True)
class MaskedLanguage:
    """MLM: masked language modelling of the title."""

    weight: NonNegativeFloat = 1.0
    rate: Fraction = 0.15


@dataclasses.dataclass(frozen=True)
class MaskedObject:
    """MOM: masked object modelling."""

    weight: NonNegativeFloat = 1.0
    rate: Fraction = 0.15
    variant: Literal["kl", "regression", "nce"] = "kl"


@dataclasses.dataclass(frozen=True)
class LinkPrediction:
    """LPM: link prediction of a hidden triple."""

    weight: NonNegativeFloat = 1.0
    margin: NonNegativeFloat = 1.0  # γ
    norm: Literal["l1", "l2"] = "l2"
    negative_values: NonNegativeInt = (
        4  # N: other values of the asked property, from the table of values
    )
    negative_items: NonNegativeInt = 1  # O: other products of the item's group of rows


@dataclasses.dataclass(frozen=True)
class Released:
    """What `release` has in the place of link prediction: one of its two tasks."""

    weight: NonNegativeFloat = 1.0


@dataclasses.dataclass(frozen=True)
class Objectives:
    """The pretraining tasks; the total is the weighted sum of those of the preset."""

    mlm: MaskedLanguage = MaskedLanguage()
    mom: MaskedObject = MaskedObject()
    lpm: LinkPrediction = LinkPrediction()  # `paper` alone
    mvm: Released = Released()  # masked modelling of the triples' values
    structure: Released = Released()  # c* told from another product's c beside the same triples
    # Rows among which an item finds other products as negatives (LPM, NCE). Groups are contiguous
    # and never straddle devices, hosts or micro-batches, so none of those changes the loss.
    group: PositiveInt = 16


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns: to embed, or a downstream task on the embedding (docs/tasks.md)."""

    name: Literal["pretraining", "classification", "alignment", "questions"] = "pretraining"
    # Of an item, in classification and questions; and of an alignment pair's two items.
    shown: tuple[Modality, ...] = ("title", "image", "knowledge")
    first_shown: tuple[Modality, ...] = ("title", "knowledge")
    second_shown: tuple[Modality, ...] = ("image",)
    hidden_properties: tuple[str, ...] = ()  # whose triples no item shows
    catalogues: tuple[str, ...] = ()  # items whose `source` is one of these alone; () is all
    label: str = "category"  # classification: the category, or a property
    classes: tuple[str, ...] = ()  # of the label; () is those that training items have
    questions: NonNegativeInt = 3  # asked of an item at most; 0 is one for each of its properties

    @property
    def downstream(self) -> bool:
        """Whether the task is another than pretraining."""
        return self.name != "pretraining"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up and linear decay to 0."""

    learning_rate: NonNegativeFloat = 1e-4
    warmup: Fraction = 0.1  # share of the steps
    b1: Fraction = 0.9
    b2: Fraction = 0.98
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01  # not on biases and LayerNorm
    clip_norm: NonNegativeFloat = 1.0  # of the global gradient; 0 is no clipping
    imported_rate: NonNegativeFloat = 1.0  # factor on the rate of parameters that `init_from` gave


@dataclasses.dataclass(frozen=True)
class Training:
    """Length and rhythm of a run; all counts are in steps."""

    steps: PositiveInt = 100_000
    batch: PositiveInt = 256  # B, of all devices together
    accumulation: PositiveInt = 1  # micro-batches per step
    one_batch: bool = False  # every step sees the first step's batch: to learn it by heart
    log_every: PositiveInt = 10
    eval_every: NonNegativeInt = 2_000  # held-out evaluation; 0 is at the end only
    checkpoint_every: PositiveInt = 1_000
    keep: PositiveInt = 3  # most recent checkpoints kept, besides the best
    profile_start: NonNegativeInt = 0  # first step of the profiler's window …
    profile_steps: NonNegativeInt = 0  # … and its length; 0 is none


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out evaluation."""

    batch: PositiveInt = 256
    products: NonNegativeInt = (
        0  # how many are evaluated, the first of each source's split; 0 is all
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices per axis; one axis may be -1: all that the others leave."""

    data: Axis = -1
    fsdp: Axis = 1
    tensor: Axis = 1

    @classmethod
    def parse(cls, sizes: Sequence[str]) -> Self:
        """Of three numbers as text; raises UserError for anything else."""
        try:
            data, fsdp, tensor = map(int, sizes)
        except ValueError as error:
            raise UserError(
                f"mesh {','.join(sizes)}: three numbers are expected, data,fsdp,tensor"
            ) from error
        return cls(data, fsdp, tensor)


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes that train as one."""

    # auto: as the cluster says (TPU pods, Slurm, Open MPI, Kubernetes), one process where there is
    # none; off: one process; or HOST:PORT, where process 0 listens and all the others find it.
    coordinator: str = "auto"
    processes: NonNegativeInt = 0  # with HOST:PORT: how many there are …
    process: NonNegativeInt = 0  # … and which of them this is
    timeout: PositiveInt = (
        600  # seconds: what takes longer, a step or a compilation, is taken to hang
    )


@dataclasses.dataclass(frozen=True)
class Debug:
    """Switches for finding a fault on one host."""

    nans: bool = False  # stop at the operation that first makes a NaN
    deterministic: bool = False  # deterministic kernels on a GPU
    memory_fraction: Fraction = 0.0  # of the GPU's memory that jax may take; 0 is jax's default
    disable_jit: bool = False  # run operation by operation, for a debugger


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run is configured by."""

    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    # A folder of weights, or a run's, that a fresh run starts from; "" is from scratch.
    init_from: str = ""
    data: Data = Data()
    lengths: Lengths = Lengths()
    image: Image = Image()
    model: Model = Model()
    objectives: Objectives = Objectives()
    task: Task = Task()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    mesh: Mesh = Mesh()
    distributed: Distributed = Distributed()
    debug: Debug = Debug()

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict | dict[str, Any]) -> Self:
        """Parses a configuration.

        Raises:
          UserError: an unknown key, a value of the wrong type, or keys that contradict each other.
        """
        if isinstance(config, ml_collections.ConfigDict):
            config = config.to_dict()
        settings = parse(cls, config, "")
        settings.check()
        return settings

    def to_config(self) -> ml_collections.ConfigDict:
        """The same as a mutable ConfigDict, what a configuration file starts from."""
        return ml_collections.ConfigDict(dataclasses.asdict(self))

    def resolved(self, *, vocabulary: int, classes: int) -> Self:
        """With the sizes that only the data set knows; raises UserError where they contradict."""
        if self.model.vocabulary not in (0, vocabulary):
            raise UserError(
                f"model.vocabulary is {self.model.vocabulary}, but the tokenizer has {vocabulary} "
                "tokens: leave model.vocabulary at 0"
            )
        if self.image.classes not in (0, classes):
            raise UserError(
                f"image.classes is {self.image.classes}, but the data set has {classes} classes: "
                "leave image.classes at 0"
            )
        settings = dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, vocabulary=vocabulary),
            image=dataclasses.replace(self.image, classes=classes),
        )
        settings.check()
        return settings

    @property
    def text_length(self) -> int:
        """T: tokens of a title, with those of the triples behind it where `knowledge_text`."""
        return self.lengths.title + self.model.knowledge_text * self.lengths.knowledge

    @property
    def region_outputs(self) -> int:
        """What MOM predicts of a region: C class logits, or F features."""
        kl = self.objectives.mom.variant == "kl"
        return self.image.classes if kl else self.image.input_dim

    def check(self) -> None:
        """Raises UserError for the first contradiction, named by its keys."""
        validation.validate(self)


def default_config() -> ml_collections.ConfigDict:
    """The defaults: the `paper` preset at the paper's size."""
    return Settings().to_config()
