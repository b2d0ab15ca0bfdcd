"""The building blocks: dense maps with named axes, attention, and one Transformer layer.

Every parameter is named by logical axes where it is initialised; `parallel/rules.py` says which of
them are spread over which devices. Post-norm layers, exact GELU, epsilon 1e-12, as in BERT
(Devlin et al., 2019).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from k3m_jax import settings
from k3m_jax.parallel import shardings

INITIAL_STDDEV = 0.02  # BERT's, of its tables and, at its width of 768, of its matrices


def embedding_init(*axes: str) -> nn.initializers.Initializer:
    """Initialiser of a table or a vector whose dimensions carry the logical names `axes`."""
    return nn.with_logical_partitioning(nn.initializers.normal(INITIAL_STDDEV), axes)


def kernel_init(*axes: str) -> nn.initializers.Initializer:
    """Initialiser of a matrix [inputs, outputs] whose dimensions are named `axes`.

    Its spread falls with the root of the inputs, as 0.02 does at BERT's width: a narrow model's
    attention would otherwise begin flat, and stay so for hundreds of steps.
    """
    gain = INITIAL_STDDEV**2 * 768
    normal = nn.initializers.variance_scaling(gain, "fan_in", "normal")
    return nn.with_logical_partitioning(normal, axes)


def bias_init(*axes: str) -> nn.initializers.Initializer:
    """Initialiser of a bias whose dimensions carry the logical names `axes`."""
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


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

    A bias along a model width is named `norm`: it is small and goes with LayerNorm's. What comes
    out is of `dtype`, or float32 if it is not to be `rounded` to that.
    """
    widths = {"embed", "image_embed", "joint"}
    bias_axes = ["norm" if axis in widths else axis for axis in axes[inputs:]]
    return nn.DenseGeneral(
        features,
        axis=tuple(range(-inputs, 0)),
        dtype=dtype,
        kernel_init=kernel_init(*axes),
        bias_init=bias_init(*bias_axes),
        dot_general_cls=None if rounded else _product_in_float32,
        name=name,
    )


def _product_in_float32() -> Callable[..., jax.Array]:
    return functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over the last dimension; statistics in float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=1e-12,
        dtype=dtype,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
        bias_init=bias_init("norm"),
        name=name,
    )


def constrain(x: jax.Array) -> jax.Array:
    """Keeps an activation [B, length, width] split by rows alone, whatever its weights' split."""
    return shardings.constrain(x, "batch", "length", "width")


def masked_softmax(scores: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
    """Softmax over the entries where `mask`; exactly 0 elsewhere, and everywhere if none is left.

    Computed in float32. Its gradient is finite also where nothing is left.
    """
    scores = jnp.where(mask, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis=axis), 0.0)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x [..., length, width] over the positions of `mask` [..., length]; 0 where empty.

    In float32. What is masked must be finite: it is multiplied by 0, which keeps this one matrix
    product for all of a text's spans.
    """
    weights = mask.astype(x.dtype)
    total = jnp.einsum("...lw,...l->...w", x, weights, preferred_element_type=jnp.float32)
    return total / jnp.maximum(mask.sum(-1), 1)[..., None]


def mean_position(streams: Sequence[tuple[jax.Array, jax.Array]], absent: jax.Array) -> jax.Array:
    """Mean over the masked positions of all streams [B, length, width], [B, length] -> [B, width].

    In float32; `absent` [width] where no position is left.
    """
    valid = jnp.concatenate([mask for _, mask in streams], 1)
    positions = jnp.concatenate([x for x, _ in streams], 1)
    count = valid.sum(1)[:, None]
    total = jnp.where(valid[..., None], positions.astype(jnp.float32), 0.0).sum(1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), absent)


Masks = tuple[jax.Array, ...]  # of texts that lie one after another in one row, each [B, n, S]


class Attention(nn.Module):
    """Multi-head attention of one stream's queries to another's (or its own) keys and values."""

    width: int  # of the stream that asks
    inner: int  # of queries, keys and values, all heads together
    heads: int
    axis: str  # logical name of `width`
    context_axis: str  # logical name of the other stream's width
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array | Masks) -> jax.Array:
        """x [B, Q, width], context [B, S, …], mask [B, S] of valid context -> [B, Q, width].

        Where no context is valid, nothing is attended to: the output is the output map's bias.
        A mask that is not bool is added to the scores, as older code does; it leaves nothing out.
        With `Masks`, x and context are texts packed into rows, n of length S for each mask, and
        every text attends to itself alone.
        """
        shape = (self.heads, self.inner // self.heads)
        q = dense(shape, (self.axis, "heads", "kv"), self.dtype, "query")(x)
        k = dense(shape, (self.context_axis, "heads", "kv"), self.dtype, "key")(context)
        v = dense(shape, (self.context_axis, "heads", "kv"), self.dtype, "value")(context)
        drop = nn.Dropout(self.dropout, deterministic=self.deterministic)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
            scores = jnp.einsum("bqhd,bshd->bhqs", q, k, preferred_element_type=jnp.float32)
            scores, mask = scores * shape[1] ** -0.5, mask[:, None, None, :]
            if mask.dtype == bool:
                weights = masked_softmax(scores, mask, axis=-1)
            else:
                weights = jax.nn.softmax(scores + mask, axis=-1)
            return jnp.einsum("bhqs,bshd->bqhd", drop(weights).astype(self.dtype), v)

        packed = isinstance(mask, tuple)
        out = _each_text(attend, q, k, v, mask) if packed else attend(q, k, v, mask)
        return dense(self.width, ("heads", "kv", self.axis), self.dtype, "out", inputs=2)(out)


def _each_text(
    attend: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, masks: Masks
) -> jax.Array:
    """`attend` within each text of packed q, k, v [B, S, heads, kv] -> [B, S, heads, kv]."""
    parts, start = [], 0
    for mask in masks:
        B, n, S = mask.shape
        own = [x[:, start : start + n * S].reshape(B * n, S, *x.shape[2:]) for x in (q, k, v)]
        out = attend(*own, mask.reshape(B * n, S))
        parts.append(out.reshape(B, n * S, *out.shape[2:]))
        start += n * S
    return jnp.concatenate(parts, 1)


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward map, each with dropout, residual and LayerNorm after it.

    With `context` from the same stream this is BERT's layer; from another stream it is one half of
    a co-attention block.
    """

    width: int
    inner: int
    heads: int
    mlp: int
    axis: str
    context_axis: str
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array | Masks) -> jax.Array:
        """x [B, Q, width], context [B, S, …], mask [B, S] or `Masks` -> [B, Q, width]."""
        drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
        attended = Attention(
            self.width,
            self.inner,
            self.heads,
            self.axis,
            self.context_axis,
            self.dropout,
            self.dtype,
            self.deterministic,
            name="attention",
        )(x, context, mask)
        x = layer_norm(self.dtype, "attention_norm")(x + drop(attended))
        inner = dense(self.mlp, (self.axis, "mlp"), self.dtype, "mlp_in")(x)
        inner = nn.gelu(inner, approximate=False)
        outer = dense(self.width, ("mlp", self.axis), self.dtype, "mlp_out")(inner)
        return constrain(layer_norm(self.dtype, "mlp_norm")(x + drop(outer)))


class SelfAttentionLayer(nn.Module):
    """A Transformer layer of one stream, in the form that `repeat` scans over."""

    width: int
    heads: int
    mlp: int
    axis: str
    dropout: float
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | Masks) -> tuple[jax.Array, None]:
        """x [B, S, width], mask [B, S] or `Masks` -> ([B, S, width], None)."""
        layer = TransformerLayer(
            self.width,
            self.width,
            self.heads,
            self.mlp,
            self.axis,
            self.axis,
            self.dropout,
            self.dtype,
            self.deterministic,
            name="layer",
        )
        return layer(x, x, mask), None

    @staticmethod
    def fields_in(encoder: nn.Module, axis: str) -> dict[str, Any]:
        """What the layers of an encoder are made with, from its sizes and the logical `axis`."""
        sizes = encoder.sizes
        return {
            "width": sizes.width,
            "heads": sizes.heads,
            "mlp": sizes.mlp,
            "axis": axis,
            "dropout": encoder.dropout,
            "dtype": encoder.dtype,
            "deterministic": encoder.deterministic,
        }


class ScanOptions(NamedTuple):
    """How the layers of a stack are gone through; it changes values by rounding alone."""

    remat: bool = False  # the backward pass computes a layer's activations again, and keeps none
    unroll: bool = False  # compiled one after another, not once for all: no copies in and out

    @classmethod
    def of(cls, model: settings.Model) -> Self:
        """As the settings say."""
        return cls(model.remat, model.unroll)

    def checkpoint(self, wrap: Callable[..., Any], layer: Any) -> Any:
        """`layer` wrapped by `nn.remat` or `jax.checkpoint`, if it is to be."""
        # A loop keeps the two computations apart by itself. Without one the compiler would find
        # that they are the same, and keep what is not to be kept.
        return wrap(layer, prevent_cse=self.unroll) if self.remat else layer


def scan_layers(layer: type[nn.Module], times: int, looping: ScanOptions, **fields) -> nn.Module:
    """`times` layers of their own parameters: a scan over stacked parameters.

    `layer` maps (carry, *constants) to (carry, None).
    """
    layer = looping.checkpoint(nn.remat, layer)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=times,
        unroll=looping.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(**fields)


class Stack(NamedTuple):
    """What `repeat` made, to be run layer by layer, in parts or more than once."""

    layer: nn.Module  # one of them, unbound
    params: Any  # of all: [times, …] each
    looping: ScanOptions

    @classmethod
    def of(
        cls, repeated: nn.Module, layer: type[nn.Module], looping: ScanOptions, **fields
    ) -> Self:
        """`repeated` is `repeat(layer, …, looping, **fields)`, initialised."""
        params = nn.unbox(repeated.variables["params"])
        return cls(layer(**fields, parent=None), params, looping)

    def apply(self, params: Any, key: jax.Array, *args: Any) -> Any:
        """One layer of `params`, its dropout drawn from `key`: (x, …) -> x."""

        def run(params, key, *args):
            return self.layer.apply({"params": params}, *args, rngs={"dropout": key})[0]

        return self.looping.checkpoint(jax.checkpoint, run)(params, key, *args)
