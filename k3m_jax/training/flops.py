"""The model's own count of its arithmetic, by formula: the one place where FLOPs are counted.

The private functions count multiply-adds.
"""

from k3m_jax import settings
from k3m_jax.data.input.batch import BATCH_GROUPS, max_masked_tokens
from k3m_jax.settings import Settings


def forward_flops(settings: Settings) -> float:
    """FLOPs of the matrix products of one item's forward pass, padding included.

    A multiply and an add are two. Attention, fusion, aggregation and what the run's task reads of
    them are counted, candidates with it; LayerNorm, softmax and other elementwise work are not.
    """
    s = settings
    return 2.0 * (_MODELS[s.model.preset](s) + _picture_map(s) + _TASKS[s.task.name](s))


def training_flops(settings: Settings) -> float:
    """Of one item in one step: the backward pass has two products for each of the forward's."""
    return 3 * forward_flops(settings)


def _k3m(s: Settings) -> float:
    model, inter = s.model, s.model.interactor
    released = model.preset == "release"
    D, Dv, W, H = model.text.width, model.image.width, inter.width, model.structure.heads
    T, K, X, R = s.text_length, s.lengths.knowledge, s.lengths.triples, s.image.regions + 1

    def stack(sizes, length, before):
        """Of a stream; what is run after the first block is run for each of two others."""
        times = 2 * sizes.layers - before[0] if released else sizes.layers
        return times * _layer(length, sizes.width, sizes.mlp)

    encoded = sum(stack(model.text, length, inter.text_layers) for length in (T, K))
    encoded += _regions(s, Dv, 5) + stack(model.image, R, inter.image_layers)
    interactors = _co_attention(inter, (T, D), (R, Dv), W, inter.image_mlp)
    if released:
        interactors += _co_attention(inter, (K, D), (R, Dv), W, inter.image_mlp)
        interactors += _co_attention(inter, (T, D), (K, D), D, inter.text_mlp)
    texts, views = (T + K, 3) if released else (T, 2)
    scores, joined = views**2, views
    maps = {"mean": 0, "interactive": 0, "hard": scores, "soft": scores + joined}
    fusion = maps[model.fusion.mode] * (texts * D**2 + R * Dv**2)
    structure = H * X * 3 * D**2 + (model.structure.residual == "linear") * D**2
    structure += (model.structure.combine == "concat") * H * D**2
    return encoded + interactors + fusion + structure


def _bert(s: Settings) -> float:
    return _stack(s.model.text, s.text_length)


def _vilbert(s: Settings) -> float:
    D, Dv, inter = s.model.text.width, s.model.image.width, s.model.interactor
    T, R = s.text_length, s.image.regions + 1
    encoded = _stack(s.model.text, T) + _regions(s, Dv, 5) + _stack(s.model.image, R)
    return encoded + _co_attention(inter, (T, D), (R, Dv), inter.width, inter.image_mlp)


def _vlbert(s: Settings) -> float:
    length = s.text_length + s.image.regions + 1
    return _regions(s, s.model.text.width, 5) + _stack(s.model.text, length)


def _lxmert(s: Settings) -> float:
    D, inter = s.model.text.width, s.model.interactor
    T, R = s.text_length, s.image.regions + 1
    encoded = _stack(s.model.text, T) + _regions(s, D, 4) + _stack(s.model.image, R)
    cross = _attention((T, D), (R, D), D) + _attention((R, D), (T, D), D)
    own = _layer(T, D, inter.text_mlp) + _layer(R, D, inter.image_mlp)
    return encoded + inter.blocks * (cross + own)


def _picture_map(s: Settings) -> float:
    """The map of regions, where there is a picture, to the width of the text."""
    if "picture" not in BATCH_GROUPS[s.model.preset]:
        return 0
    return (s.image.regions + 1) * _image_width(s) * s.model.text.width


def _image_width(s: Settings) -> int:
    return (s.model.text if s.model.preset == "vlbert" else s.model.image).width


def _pretraining(s: Settings) -> float:
    """The heads, and the candidates of links, of those parts that the preset's batches have."""
    D, V, parts = s.model.text.width, s.model.vocabulary, BATCH_GROUPS[s.model.preset]
    count = max_masked_tokens(s) * D * (D + V)
    if "picture" in parts:
        width = _image_width(s)
        count += s.image.regions * width * (width + s.region_outputs)
    if "values" in parts:
        count += s.lengths.knowledge * D * (D + V)
    if "links" in parts:
        count += _candidates(s)
    return count


def _questions(s: Settings) -> float:
    """The candidates, which every model encodes, and the head's maps of them and of the item."""
    J, D = 1 + s.objectives.lpm.negative_values, s.model.text.width
    return _candidates(s) + (2 * J + 1) * D**2 + J * D


def _candidates(s: Settings) -> float:
    J = 1 + s.objectives.lpm.negative_values
    return J * _stack(s.model.text, s.lengths.candidate)


def _regions(s: Settings, width: int, corners: int) -> float:
    """The embedding of regions, of so many numbers of a box."""
    return (s.image.regions + 1) * (s.image.input_dim + corners) * width


def _stack(sizes: settings.Encoder, length: int) -> float:
    return sizes.layers * _layer(length, sizes.width, sizes.mlp)


def _layer(length: int, width: int, mlp: int) -> float:
    """One Transformer layer of a stream by itself."""
    own = (length, width)
    return _attention(own, own, width) + 2 * length * width * mlp


def _attention(stream: tuple[int, int], context: tuple[int, int], inner: int) -> float:
    """(length, width) of the stream that asks and of what it asks; `inner`: all heads' width."""
    (Q, width), (S, context_width) = stream, context
    return 2 * Q * width * inner + 2 * S * context_width * inner + 2 * Q * S * inner


def _co_attention(
    inter: settings.Interactor,
    text: tuple[int, int],
    other: tuple[int, int],
    inner: int,
    other_mlp: int,
) -> float:
    """All blocks of a text and another stream, each (length, width)."""
    exchange = _attention(text, other, inner) + _attention(other, text, inner)
    own = 2 * text[0] * text[1] * inter.text_mlp + 2 * other[0] * other[1] * other_mlp
    return inter.blocks * (exchange + own)


_MODELS = {
    "paper": _k3m,
    "release": _k3m,
    "bert": _bert,
    "vilbert": _vilbert,
    "vlbert": _vlbert,
    "lxmert": _lxmert,
}
# What of the model's streams a task asks for; of a pair, a row's half of its head.
_TASKS = {
    "pretraining": _pretraining,
    "classification": lambda s: s.model.text.width * len(s.task.classes),
    "alignment": lambda s: s.model.text.width,
    "questions": _questions,
}
