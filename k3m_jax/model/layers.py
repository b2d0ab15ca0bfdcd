"""The building blocks: dense maps with named axes, attention, and one Transformer layer.

Every parameter names its logical axes where it is initialised; `parallel/shardings.py` says how
they are split over devices. Post-norm layers, exact GELU, epsilon 1e-12, as in BERT (Devlin et al.,
2019).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.parallel.shardings import constrain

Array = jax.Array
Scalar = jax.Array | float
DropoutLayer = Callable[[Array], Array]


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """`x Φ(x)`, exact, in float32 within; its derivative is kept, which costs a third as much."""
    return _gelu_and_derivative(x)[0]


def _gelu_and_derivative(x: Array) -> tuple[Array, Array]:
    dtype, x = x.dtype, x.astype(jnp.float32)
    below = 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
    slope = below + x * jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
    return (x * below).astype(dtype), slope.astype(dtype)


gelu.defvjp(_gelu_and_derivative, lambda slope, gradient: (slope * gradient,))


class Dropout(nn.Module):
    """Dropout with one random byte per number: a rate is the nearest of 256ths.

    Drawing 32 bits for each takes about ten times as long on a CPU.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x of any shape -> the same; kept numbers are scaled by what is kept of 256."""
        kept = round(256 * (1 - self.rate))
        if self.deterministic or kept == 256:
            return x
        if not kept:
            return jnp.zeros_like(x)
        chosen = random_bytes(self.make_rng("dropout"), x.shape) < kept
        return jnp.where(chosen, x * (256 / kept), 0)


def random_bytes(key: Array, shape: Sequence[int]) -> Array:
    """Numbers below 256, uint32 of `shape`: four of each word that is drawn."""
    *rows, length = shape
    words = jax.random.bits(key, (*rows, -(-length // 4)), jnp.uint32)
    parts = [words >> shift & 0xFF for shift in (0, 8, 16, 24)]
    return jnp.concatenate(parts, -1)[..., :length]


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a model of given sizes is computed."""

    dropout: float
    dtype: jnp.dtype  # of activations; parameters are float32
    deterministic: bool  # evaluation: no dropout, no noise
    remat: bool = False  # recompute each layer in the backward pass
    unroll: bool = False  # compile each layer separately: no copies in and out of a scan

    @classmethod
    def of(cls, model: settings.Model, deterministic: bool) -> Self:
        """From the settings of a model."""
        dtype = jnp.dtype(model.dtype)
        return cls(model.dropout, dtype, deterministic, model.remat, model.unroll)

    def dropout_layer(self) -> Dropout:
        """Dropout at this rate; the identity in evaluation."""
        return Dropout(self.dropout, self.deterministic)

    def checkpoint(self, wrap: Callable[..., Any], layer: Any) -> Any:
        """`layer` wrapped by `nn.remat` or `jax.checkpoint` where `remat` says so."""
        # Outside a scan, CSE would undo rematerialisation.
        return wrap(layer, prevent_cse=self.unroll) if self.remat else layer


def named(initializer: nn.initializers.Initializer) -> Callable[..., nn.initializers.Initializer]:
    """From the logical names of a parameter's dimensions to its initialiser."""
    return lambda *axes: nn.with_logical_partitioning(initializer, axes)


STDDEV = 0.02  # BERT's
embedding_init = named(nn.initializers.normal(STDDEV))  # of tables and vectors
# The standard deviation falls with the root of the inputs and is BERT's at its width of 768: a
# narrow model's attention would otherwise begin flat and stay flat for hundreds of steps.
kernel_init = named(nn.initializers.variance_scaling(STDDEV**2 * 768, "fan_in", "normal"))
scale_init = named(nn.initializers.ones)
bias_init = named(nn.initializers.zeros)


def dense(
    features: int | Sequence[int],
    axes: Sequence[str],
    dtype: jnp.dtype,
    name: str,
    inputs: int = 1,
    *,
    rounded: bool = True,
) -> nn.DenseGeneral:
    """A linear map of the last `inputs` dimensions to `features`; `axes` names all of its kernel's.

    The axis of a bias along a model width is `norm`: small, and split as LayerNorm's parameters.
    The output has `dtype`, or float32 if not `rounded`.
    """
    bias_axes = ["norm" if axis in ("embed", "image_embed") else axis for axis in axes[inputs:]]
    dot_general = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    return nn.DenseGeneral(
        features,
        axis=tuple(range(-inputs, 0)),
        dtype=dtype,
        kernel_init=kernel_init(*axes),
        bias_init=bias_init(*bias_axes),
        dot_general=None if rounded else dot_general,
        name=name,
    )


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over the last dimension; statistics in float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=1e-12,
        dtype=dtype,
        use_fast_variance=False,
        scale_init=scale_init("norm"),
        bias_init=bias_init("norm"),
        name=name,
    )


def masked_softmax(scores: Array, mask: Array, axis: int) -> Array:
    """Softmax over the entries in `mask`, in float32; 0 elsewhere, and everywhere if none is left.

    Its gradient is finite also where nothing is left.
    """
    scores = jnp.where(mask, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis=axis), 0.0)


Mask = Any  # a `KeyMask`, or another pytree with its `attend`: scans hand it to every layer


class KeyMask(NamedTuple):
    """The same keys for every query of a row; where none is valid, the output is 0."""

    valid: Array  # [B, S] bool

    def softmax(self, scores: Array) -> Array:
        """Scores [B, heads, Q, S], float32 -> weights."""
        return masked_softmax(scores, self.valid[:, None, None, :], axis=-1)

    def attend(self, q: Array, k: Array, v: Array, dropout: DropoutLayer) -> Array:
        """Queries [B, Q, heads, kv], keys and values [B, S, heads, kv] -> [B, Q, heads, kv]."""
        return attend(q, k, v, self.softmax, dropout)


def attend(
    q: Array, k: Array, v: Array, softmax: Callable[[Array], Array], dropout: DropoutLayer
) -> Array:
    """Attention of queries [B, Q, heads, kv] to keys and values [B, S, heads, kv].

    `softmax` makes weights of scores [B, heads, Q, S], float32.
    """
    scores = jnp.einsum("bqhd,bshd->bhqs", q, k, preferred_element_type=jnp.float32)
    weights = dropout(softmax(scores * q.shape[-1] ** -0.5))
    return jnp.einsum("bhqs,bshd->bqhd", weights.astype(v.dtype), v)


class Attention(nn.Module):
    """Multi-head attention of one stream's queries to another's (or its own) keys and values."""

    inner: int  # width of queries, keys and values, all heads together
    heads: int
    axis: str  # logical name of the stream's width
    context_axis: str  # of the context's
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, context: Array, mask: Mask) -> Array:
        """x [B, Q, width], context [B, S, …] and its mask -> [B, Q, width].

        Where no context is valid the output is the output map's bias.
        """
        shape, dtype = (self.heads, self.inner // self.heads), self.numerics.dtype
        q = dense(shape, (self.axis, "heads", "kv"), dtype, "query")(x)
        k = dense(shape, (self.context_axis, "heads", "kv"), dtype, "key")(context)
        v = dense(shape, (self.context_axis, "heads", "kv"), dtype, "value")(context)
        out = mask.attend(q, k, v, self.numerics.dropout_layer())
        return dense(x.shape[-1], ("heads", "kv", self.axis), dtype, "out", inputs=2)(out)


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward map, each with dropout, residual and LayerNorm after it.

    With `context` from the same stream this is BERT's layer; from another stream it is one half of
    a co-attention block.
    """

    inner: int
    heads: int
    mlp: int
    axis: str
    context_axis: str
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, context: Array, mask: Mask) -> Array:
        """x [B, Q, width], context [B, S, …] and its mask -> [B, Q, width]."""
        numerics, dtype, drop = self.numerics, self.numerics.dtype, self.numerics.dropout_layer()
        sizes = self.inner, self.heads, self.axis, self.context_axis
        attended = Attention(*sizes, numerics, name="attention")(x, context, mask)
        x = layer_norm(dtype, "attention_norm")(x + drop(attended))
        inner = gelu(dense(self.mlp, (self.axis, "mlp"), dtype, "mlp_in")(x))
        outer = dense(x.shape[-1], ("mlp", self.axis), dtype, "mlp_out")(inner)
        x = layer_norm(dtype, "mlp_norm")(x + drop(outer))
        return constrain(x, "batch", "length", "width")


class SelfAttentionLayer(nn.Module):
    """A Transformer layer of one stream, in the form that `scan_layers` scans over."""

    sizes: settings.Encoder
    axis: str
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, mask: Mask) -> tuple[Array, None]:
        """x [B, S, width] and its mask -> ([B, S, width], None)."""
        s, axes = self.sizes, (self.axis, self.axis)
        layer = TransformerLayer(s.width, s.heads, s.mlp, *axes, self.numerics, name="layer")
        return layer(x, x, mask), None


def scan_layers(layer: type[nn.Module], times: int, *fields: Any, numerics: Numerics) -> nn.Module:
    """`times` modules `layer(*fields, numerics)`, each with its own parameters, stacked.

    They map (carry, *constants) to (carry, None).
    """
    return nn.scan(
        numerics.checkpoint(nn.remat, layer),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=times,
        unroll=numerics.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(*fields, numerics)
