"""Multiply-adds of one item between its inputs and the embedding."""

from k3m_jax.settings import Settings
from k3m_jax.training import flops


def vlbert(s: Settings) -> float:
    """Of VL-BERT."""
    length = s.text_length + s.image.regions + 1
    others = flops.texts(s, without=("title_tokens",))
    return flops.regions(s, s.model.text.width) + flops.stack(s.model.text, length) + others


def lxmert(s: Settings) -> float:
    """Of LXMERT."""
    D, inter = s.model.text.width, s.model.interactor
    T, R = s.text_length, s.image.regions + 1
    encoded = flops.texts(s) + flops.regions(s, D, corners=4) + flops.stack(s.model.image, R)
    cross = flops.attention((T, D), (R, D), D) + flops.attention((R, D), (T, D), D)
    own = flops.layer(T, D, inter.text_mlp) + flops.layer(R, D, inter.image_mlp)
    return encoded + inter.blocks * (cross + own)
