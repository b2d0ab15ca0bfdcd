"""FLOPs of the models, by formula; the private functions count multiply-adds of one item."""

import math
from collections.abc import Callable

from k3m_jax import settings
from k3m_jax.data.input.batch import BatchLayout
from k3m_jax.objectives.masked_language import MaskedLanguage
from k3m_jax.settings import Settings
from k3m_jax.settings.presets import PRESETS


def forward_flops(s: Settings) -> float:
    """FLOPs of the matrix products of one item's forward pass, padding included.

    A multiply and an add are two. Attention, fusion, aggregation and the heads of the run's task
    are counted, candidates too; LayerNorm, softmax and other elementwise work are not.
    """
    count = MODELS[s.model.preset](s) + _image_map(s)
    if s.task.downstream:
        count += _task_head(s)
    else:
        chosen = (*PRESETS[s.model.preset].objectives, *s.objectives.extra)
        count += sum(HEADS[name](s) for name in chosen if name in HEADS)
    return 2.0 * count


def training_flops(s: Settings) -> float:
    """Of one item in one step: the backward pass has two products for each of the forward's."""
    return 3 * forward_flops(s)


def texts(s: Settings, *, without: tuple[str, ...] = ()) -> float:
    """The text encoder's layers over the arrays `…_tokens` of a batch, but those `without`."""
    layout, packed = BatchLayout.of(s), 0.0
    if packing := layout.packing:
        without += tuple(f"{name}_tokens" for name in packing.names)
        packed = packing.rows / packing.items * stack(s.model.text, packing.length)
    return packed + sum(
        math.prod(shape[1:-1]) * stack(s.model.text, shape[-1])
        for name, (shape, _) in layout.padded.spec(1).items()
        if name.endswith("_tokens") and name not in without
    )


def regions(s: Settings, width: int, corners: int = 5) -> float:
    """The embedding of regions with `corners` numbers of a box each."""
    return (s.image.regions + 1) * (s.image.input_dim + corners) * width


def stack(sizes: settings.Encoder, length: int) -> float:
    """A stack of layers over one stream."""
    return sizes.layers * layer(length, sizes.width, sizes.mlp)


def layer(length: int, width: int, mlp: int) -> float:
    """One Transformer layer over one stream."""
    own = (length, width)
    return attention(own, own, width) + 2 * length * width * mlp


def attention(stream: tuple[int, int], context: tuple[int, int], inner: int) -> float:
    """(length, width) of the queries' stream and of the context; `inner`: all heads' width."""
    (Q, width), (S, context_width) = stream, context
    return 2 * Q * width * inner + 2 * S * context_width * inner + 2 * Q * S * inner


def co_attention(
    inter: settings.Interactor,
    text: tuple[int, int],
    other: tuple[int, int],
    inner: int,
    other_mlp: int,
) -> float:
    """All blocks between a text and another stream, each (length, width)."""
    exchange = attention(text, other, inner) + attention(other, text, inner)
    own = 2 * text[0] * text[1] * inter.text_mlp + 2 * other[0] * other[1] * other_mlp
    return inter.blocks * (exchange + own)


def fusion(s: Settings, streams: int, text_length: int) -> float:
    """Of so many features of each position; `text_length` of all texts together."""
    scores, joined = streams**2, streams
    maps = {"mean": 0, "interactive": 0, "hard": scores, "soft": scores + joined}
    D, Dv, R = s.model.text.width, s.model.image.width, s.image.regions + 1
    return maps[s.model.fusion.mode] * (text_length * D**2 + R * Dv**2)


def structure(s: Settings) -> float:
    """Structure aggregation."""
    sizes, D, X = s.model.structure, s.model.text.width, s.lengths.triples
    maps = sizes.heads * X * 3 + (sizes.residual == "linear")
    return (maps + (sizes.combine == "concat") * sizes.heads) * D**2


def _k3m(s: Settings) -> float:
    return two_streams(s) + fusion(s, 2, s.text_length) + structure(s)


def two_streams(s: Settings) -> float:
    """The encoders and the interactor."""
    R = s.image.regions + 1
    encoded = texts(s) + regions(s, s.model.image.width) + stack(s.model.image, R)
    return encoded + _interactor(s)


def _interactor(s: Settings) -> float:
    inter = s.model.interactor
    text, image = (s.text_length, s.model.text.width), (s.image.regions + 1, s.model.image.width)
    return co_attention(inter, text, image, inter.width, inter.image_mlp)


def _second_view(s: Settings) -> float:
    """K3M's shares the encoders; another model's is the whole model again."""
    if s.model.preset == "paper":
        return _interactor(s) + fusion(s, 2, s.text_length) + structure(s) + _image_map(s)
    return MODELS[s.model.preset](s) + _image_map(s)


def _image_map(s: Settings) -> float:
    """The map of regions to the width of the text."""
    if "image" not in PRESETS[s.model.preset].modalities:
        return 0
    return (s.image.regions + 1) * _image_width(s) * s.model.text.width


def _image_width(s: Settings) -> int:
    return IMAGE_WIDTHS.get(s.model.preset, lambda s: s.model.image.width)(s)


def language_head(s: Settings, positions: int) -> float:
    """The MLM head at so many positions."""
    return positions * s.model.text.width * (s.model.text.width + s.model.vocabulary)


def _object_head(s: Settings) -> float:
    width = _image_width(s)
    return s.image.regions * width * (width + s.region_outputs)


def _task_head(s: Settings) -> float:
    """Of a pair, a row's half of its head."""
    D = s.model.text.width
    if s.task.name == "questions":
        J = 1 + s.objectives.lpm.negative_values
        return (2 * J + 1) * D**2 + J * D
    return D * (len(s.task.classes) if s.task.name == "classification" else 1)


# By preset, encoders and all between them and the embedding.
MODELS: dict[str, Callable[[Settings], float]] = {"paper": _k3m}
# By preset, the width of its regions where that is not the image encoder's.
IMAGE_WIDTHS: dict[str, Callable[[Settings], int]] = {}
# By objective, where it has a head.
HEADS: dict[str, Callable[[Settings], float]] = {
    "mlm": lambda s: language_head(s, MaskedLanguage.from_settings(s).limit),
    "mom": _object_head,
    "view": _second_view,
}
