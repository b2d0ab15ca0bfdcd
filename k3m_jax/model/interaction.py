"""What text, picture and triples learn from each other: co-attention, fusion, aggregation."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.model import layers
from k3m_jax.model.layers import Array, Mask, Numerics, Scalar, TransformerLayer, dense

Pair = tuple[Array, Array]  # text [B, T, D] and image [B, R, Dv]
LEAKY_SLOPE = 0.01


class CoAttentionBlock(nn.Module):
    """Each stream attends to the other as both were before the block (ViLBERT, Lu et al., 2019)."""

    sizes: settings.Interactor
    numerics: Numerics
    image_axis: ClassVar[str] = "image_embed"  # logical name of the image's width

    @nn.compact
    def __call__(
        self, streams: Pair, text_mask: Mask, image_mask: Mask, knowledge: Pair | None = None
    ) -> tuple[Pair, None]:
        """Streams (text [B, T, D], image [B, R, Dv]) -> the same, after one exchange.

        `knowledge`, as wide as image and as text, is behind the other stream for both to attend to;
        the masks are of what is attended to.
        """
        (text, image), s, axis = streams, self.sizes, self.image_axis
        text_context, image_context = image, text
        if knowledge is not None:
            text_context, image_context = (
                jnp.concatenate(pair, 1) for pair in zip((image, text), knowledge, strict=True)
            )
        text_sizes = (s.width, s.heads, s.text_mlp, "embed", axis)
        image_sizes = (s.width, s.heads, s.image_mlp, axis, "embed")
        text_layer = TransformerLayer(*text_sizes, self.numerics, name="text")
        image_layer = TransformerLayer(*image_sizes, self.numerics, name="image")
        text = text_layer(text, text_context, image_mask)
        return (text, image_layer(image, image_context, text_mask)), None


class Interactor(nn.Module):
    """A stack of blocks in which two streams interact."""

    sizes: settings.Interactor
    numerics: Numerics
    block: type[nn.Module] = CoAttentionBlock  # or another with the same fields and arguments

    def setup(self) -> None:
        s = self.sizes
        self.blocks = layers.scan_layers(self.block, s.blocks, s, numerics=self.numerics)

    def __call__(
        self, text: Array, image: Array, text_mask: Mask, image_mask: Mask, *knowledge: Pair
    ) -> Pair:
        """Text [B, T, D], image [B, R, Dv] and their masks -> interactive features, same shapes."""
        return self.blocks((text, image), text_mask, image_mask, *knowledge)[0]


class Fusion(nn.Module):
    """Fuses n features of each position; the first is the initial one."""

    mode: str  # of `settings.Fusion`
    axis: str  # logical name of the width
    numerics: Numerics

    @nn.compact
    def __call__(self, *features: Array, temperature: Scalar) -> Array:
        """n features, each [B, S, width] -> fused [B, S, width].

        `mean`: their mean. `interactive`: the mean of all but the first. `soft`:
        `W_o[s_1∘x_1; …; s_n∘x_n]` with `s_k = sigmoid(W_k[x_1; …; x_n])`. `hard`: each dimension is
        that of one feature, chosen by the logits `W_k[x_1; …; x_n]` plus Gumbel noise; at
        evaluation the largest logit.
        """
        stack = jnp.stack(features, -2)  # [B, S, n, width]
        if self.mode == "mean":
            return stack.mean(-2)
        if self.mode == "interactive":
            return stack[..., 1:, :].mean(-2)
        logits = self.logits(stack)
        if self.mode == "soft":
            gated, axes = jax.nn.sigmoid(logits) * stack, ("streams", self.axis, "width")
            return dense(stack.shape[-1], axes, self.numerics.dtype, "out", inputs=2)(gated)
        logits = logits.astype(jnp.float32)
        if not self.numerics.deterministic:
            logits += jax.random.gumbel(self.make_rng("gumbel"), logits.shape)
        return choose(stack, logits, temperature)

    def logits(self, stack: Array) -> Array:
        """`W_k[x_1; …; x_n]` of all k: [B, S, n, width] -> the same shape."""
        axes = ("streams", self.axis, "scores", "width")
        return dense(stack.shape[-2:], axes, self.numerics.dtype, "score", inputs=2)(stack)


def choose(stack: Array, logits: Array, temperature: Scalar) -> Array:
    """Features [..., n, width] -> [..., width], each dimension that of the largest logit.

    The gradient is that of the softmax of logits / temperature (straight-through; Jang et al.,
    2017). Logits are float32.
    """
    soft = jax.nn.softmax(logits / temperature, axis=-2)
    hard = jax.nn.one_hot(logits.argmax(-2), logits.shape[-2], axis=-2, dtype=soft.dtype)
    choice = hard + (soft - jax.lax.stop_gradient(soft))  # the bracket is exactly 0
    return (choice.astype(stack.dtype) * stack).sum(-2)


class StructureAggregation(nn.Module):
    """`c* = residual(c) + combine_m Σ_x a_x t_x` with `t_x = W_1[c; p_x; v_x]`.

    `a = softmax_x(w_2·LeakyReLU(t_x))` over the item's own triples. Every head m has W_1 and w_2 of
    its own.
    """

    sizes: settings.Structure
    dtype: jnp.dtype
    learned_absence: bool = False  # of triples: a vector in the place of their sum

    @nn.compact
    def __call__(self, c: Array, p: Array, v: Array, mask: Array) -> tuple[Array, Array]:
        """Product c [B, D], properties p and values v [B, X, D] of its own triples, `mask` [B, X].

        Returns c* [B, D] and the attention over triples [B, H, X]; without triples,
        `c* = residual(c)`.
        """
        heads, D = self.sizes.heads, c.shape[-1]
        triples = jnp.stack([jnp.broadcast_to(c[:, None], p.shape), p, v], -2)  # [B, X, 3, D]
        axes = ("parts", "embed", "structure_heads", "width")
        t = dense((heads, D), axes, self.dtype, "w1", inputs=2)(triples)
        scores = self.scores(t)
        if self.sizes.scaled:
            scores *= D**-0.5
        attention = layers.masked_softmax(scores, mask[:, None, :], axis=-1)
        gathered = jnp.einsum("bhx,bxhd->bhd", attention.astype(self.dtype), t)
        gathered = self.combined(gathered, mask)
        if self.learned_absence:
            absent = self.param("absent", layers.embedding_init("norm"), (D,)).astype(self.dtype)
            gathered = jnp.where(mask.any(1, keepdims=True), gathered, absent)
        # The residual stays in the dtype of c, float32: it is all that an item without triples has.
        if self.sizes.residual == "linear":
            c = dense(D, ("embed", "width"), self.dtype, "w3", rounded=False)(c)
        return c + gathered, attention

    def scores(self, t: Array) -> Array:
        """Encoded triples [B, X, H, D] -> scores [B, H, X]."""
        init = layers.embedding_init("structure_heads", "norm")
        w2 = self.param("w2", init, t.shape[-2:]).astype(self.dtype)
        if self.sizes.activation == "before":
            return jnp.einsum("bxhd,hd->bhx", nn.leaky_relu(t, LEAKY_SLOPE), w2)
        return nn.leaky_relu(jnp.einsum("bxhd,hd->bhx", t, w2), LEAKY_SLOPE)

    def combined(self, gathered: Array, mask: Array) -> Array:
        """The heads [B, H, D] of items with triples `mask` [B, X] as one [B, D]."""
        del mask
        if self.sizes.combine == "mean":
            return gathered.mean(1)
        _, heads, D = gathered.shape
        init = layers.kernel_init("structure_heads", "width", "embed")
        kernel = self.param("out", init, (heads, D, D)).astype(self.dtype)
        return jnp.einsum("bhd,hde->be", gathered, kernel)
