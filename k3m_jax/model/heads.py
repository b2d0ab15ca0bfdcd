"""The heads: predictions of masked words and regions, and those of the downstream tasks.

A task's head reads embeddings and, of the candidates of a question, property and value; nothing
else of the model, so it is the same whatever model the embedding comes from.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from k3m_jax.model.layers import Array, bias_init, dense, gelu, layer_norm
from k3m_jax.settings import Task


class MaskedLanguageHead(nn.Module):
    """BERT's head: a dense map, GELU, LayerNorm, and a decoder tied to the word table."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Array, positions: Array, words: Array) -> Array:
        """Hidden [B, T, D], positions [B, M], words [V, D] -> logits [B, M, V], float32.

        Only the M target positions are decoded: the vocabulary is the widest map of the model.
        """
        x = jnp.take_along_axis(hidden, positions[..., None], 1)
        x = dense(x.shape[-1], ("embed", "width"), self.dtype, "transform")(x)
        x = layer_norm(self.dtype, "norm")(gelu(x))
        bias = self.param("bias", bias_init("vocab"), words.shape[:1])
        words = words.astype(self.dtype)
        return jnp.einsum("bmd,vd->bmv", x, words, preferred_element_type=jnp.float32) + bias


class MaskedObjectHead(nn.Module):
    """The same form for regions: class logits (`kl`) or features (`regression`, `nce`)."""

    outputs: int  # C or F
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Hidden [B, N, Dv] -> [B, N, outputs], float32."""
        x = dense(hidden.shape[-1], ("image_embed", "width"), self.dtype, "transform")(hidden)
        x = layer_norm(self.dtype, "norm")(gelu(x))
        # In bfloat16, likely classes would tie or change places.
        axes = ("image_embed", "classes")
        return dense(self.outputs, axes, self.dtype, "decoder", rounded=False)(x)


class TaskHead(nn.Module):
    """What the head of a task reads of a batch."""

    task: Task  # its classes are given
    width: int  # D
    # Dimensions of each input between the first, examples, and the last, D: an example's rows of a
    # batch, and candidate triples' properties and values where the head reads them.
    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((),)


class ClassificationHead(TaskHead):
    """A linear map."""

    @nn.compact
    def __call__(self, c: Array) -> Array:
        """Embeddings [I, D] -> logits [I, classes]."""
        return dense(len(self.task.classes), ("embed", "classes"), jnp.float32, "logits")(c)


class AlignmentHead(TaskHead):
    """A linear map of `|a - b|` and `a * b`: the same for (a, b) and (b, a)."""

    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((2,),)

    @nn.compact
    def __call__(self, c: Array) -> Array:
        """Embeddings of pairs [I, 2, D] -> logits [I] that they are one product."""
        a, b = c[:, 0], c[:, 1]
        features = jnp.stack([jnp.abs(a - b), a * b], 1)
        axes = ("parts", "embed", "scores")
        return dense(1, axes, jnp.float32, "logit", inputs=2)(features)[:, 0]


class QuestionHead(TaskHead):
    """`⟨c + W_q [c; p], v + W_v v⟩` over the root of the width, W_q [c; p] as a sum of two maps.

    Item and value come from one text encoder, so learning starts from their own similarity: random
    maps alone would have to relearn for each value what a title says.
    """

    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((), (1,), (1,))

    def setup(self) -> None:
        for name in ("item", "property", "value"):
            setattr(self, name, dense(self.width, ("embed", "width"), jnp.float32, f"of_{name}"))

    def __call__(self, c: Array, p: Array, v: Array) -> Array:
        """Embeddings [I, D], candidates' properties and values [I, J, D] -> scores [I, J]."""
        return self.score(c, *self.encode(p, v))

    def encode(self, p: Array, v: Array) -> tuple[Array, Array]:
        """What all items share, of candidates [..., D]: prior [...], value [..., D]."""
        values = v + self.value(v)
        return (self.property(p) * values).sum(-1), values

    def score_all(self, c: Array, priors: Array, values: Array) -> Array:
        """The same for candidates that all items share, [J] and [J, D]."""
        return ((c + self.item(c)) @ values.T + priors) / jnp.sqrt(self.width)

    def score(self, c: Array, priors: Array, values: Array) -> Array:
        """Embeddings [I, D], encoded candidates [I, J], [I, J, D] -> scores [I, J]."""
        return (jnp.einsum("id,ijd->ij", c + self.item(c), values) + priors) / jnp.sqrt(self.width)


TASK_HEADS: dict[str, type[TaskHead]] = {
    "classification": ClassificationHead,
    "alignment": AlignmentHead,
    "questions": QuestionHead,
}
