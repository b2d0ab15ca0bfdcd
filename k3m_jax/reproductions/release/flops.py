"""FLOPs of the preset `release`."""

from k3m_jax import settings
from k3m_jax.settings import Settings
from k3m_jax.training import flops


def released_flops(s: Settings) -> float:
    """Multiply-adds of one item between its inputs and the embedding."""
    model, inter = s.model, s.model.interactor
    D, Dv = model.text.width, model.image.width
    T, K, R = s.text_length, s.lengths.knowledge, s.image.regions + 1

    def passes(sizes: settings.Encoder, length: int, before: tuple[int, ...]) -> float:
        """Layers after the first block run once for each of two other streams."""
        times = 2 * sizes.layers - before[0]
        return times * flops.layer(length, sizes.width, sizes.mlp)

    encoded = sum(passes(model.text, length, inter.text_layers) for length in (T, K))
    encoded += flops.regions(s, Dv) + passes(model.image, R, inter.image_layers)
    encoded += flops.texts(s, without=("title_tokens", "knowledge_tokens"))
    interactors = sum(
        flops.co_attention(inter, text, other, inner, mlp)
        for text, other, inner, mlp in (
            ((T, D), (R, Dv), inter.width, inter.image_mlp),
            ((K, D), (R, Dv), inter.width, inter.image_mlp),
            ((T, D), (K, D), D, inter.text_mlp),
        )
    )
    return encoded + interactors + flops.fusion(s, 3, T + K) + flops.structure(s)
