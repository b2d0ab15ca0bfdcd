"""The model's own count of its arithmetic, by formula: the one place where FLOPs are counted."""

from k3m_jax.data.batch import masked_tokens
from k3m_jax.settings import Settings


def forward_flops(settings: Settings) -> float:
    """FLOPs of the matrix products of one item's forward pass, padding included.

    A multiply and an add are two. Attention, fusion, aggregation and heads are counted; LayerNorm,
    softmax and other elementwise work are not.
    """
    s, model, inter = settings, settings.model, settings.model.interactor
    released = model.preset == "release"
    D, Dv, W = model.text.width, model.image.width, inter.width
    T, K, X, N = s.lengths.title, s.lengths.knowledge, s.lengths.triples, s.image.regions
    R, L, J = N + 1, s.lengths.candidate, 1 + s.objectives.lpm.negative_values
    V, M, H = model.vocabulary, masked_tokens(T, s.objectives.mlm.rate), model.structure.heads
    outputs = s.image.classes if s.objectives.mom.variant == "kl" else s.image.input_dim

    def layer(length, width, context, context_width, inner, mlp):
        """Multiply-adds of one Transformer layer that attends to `context` positions."""
        projections = 2 * length * width * inner + 2 * context * context_width * inner
        return projections + 2 * length * context * inner + 2 * length * width * mlp

    def stack(sizes, length, before):
        """Of a stream; what is run after the first block is run for each of two others."""
        one = layer(length, sizes.width, length, sizes.width, sizes.width, sizes.mlp)
        return one * (2 * sizes.layers - before[0] if released else sizes.layers)

    def blocks(length, other, other_width, inner, other_mlp):
        """Of an interactor of a text and another stream."""
        text = layer(length, D, other, other_width, inner, inter.text_mlp)
        return inter.blocks * (text + layer(other, other_width, length, D, inner, other_mlp))

    encoded = sum(stack(model.text, length, inter.text_layers) for length in (T, K))
    encoded += R * (s.image.input_dim + 5) * Dv + stack(model.image, R, inter.image_layers)
    interactors = blocks(T, R, Dv, W, inter.image_mlp)
    heads = M * D * (D + V) + N * Dv * (Dv + outputs)
    if released:
        interactors += blocks(K, R, Dv, W, inter.image_mlp) + blocks(T, K, D, D, inter.text_mlp)
        heads += K * D * (D + V)
        texts, views = T + K, 3
    else:
        encoded += J * stack(model.text, L, ())
        texts, views = T, 2
    scores, joined = views**2, views
    maps = {"mean": 0, "interactive": 0, "hard": scores, "soft": scores + joined}
    fusion = maps[model.fusion.mode] * (texts * D**2 + R * Dv**2) + R * Dv * D
    structure = H * X * 3 * D**2 + (model.structure.residual == "linear") * D**2
    structure += (model.structure.combine == "concat") * H * D**2
    return 2.0 * (encoded + interactors + fusion + structure + heads)


def training_flops(settings: Settings) -> float:
    """Of one item in one step: the backward pass has two products for each of the forward's."""
    return 3 * forward_flops(settings)
