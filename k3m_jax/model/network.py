"""The model as pure functions of parameters and batches: the seam between flax and the rest."""

import dataclasses
from typing import Any, Self

import flax.linen as nn
import jax

from k3m_jax.data.input.batch import Batch, random_batch
from k3m_jax.model.baselines.baseline import BaselineOutputs
from k3m_jax.model.baselines.bert import Bert
from k3m_jax.model.baselines.lxmert import Lxmert
from k3m_jax.model.baselines.vilbert import Vilbert
from k3m_jax.model.baselines.vlbert import VlBert
from k3m_jax.model.k3m import K3M, Outputs, Product
from k3m_jax.reproductions.release.model import ReleasedK3M, ReleasedOutputs
from k3m_jax.settings import Settings

Params = Any  # a nested dict of arrays

_MODULES = {
    "paper": K3M,
    "release": ReleasedK3M,
    "bert": Bert,
    "vilbert": Vilbert,
    "vlbert": VlBert,
    "lxmert": Lxmert,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """The model of resolved settings. It holds no arrays, and equal settings compare equal."""

    settings: Settings

    def init_params(self, key: jax.Array) -> Params:
        """Fresh float32 parameters, each boxed with its logical axis names."""
        batch = random_batch(self.settings, self.settings.objectives.group)
        rngs = dict.fromkeys(("params", "dropout", "gumbel"), key)
        module = self.looped()._module(deterministic=True)
        return module.init(rngs, batch, 1.0)["params"]

    def looped(self) -> Self:
        """The same model, compiled soon: for what runs once, or is to be small."""
        model = dataclasses.replace(self.settings.model, unroll=False)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, model=model))

    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        temperature: jax.Array | float = 1.0,
        key: jax.Array | None = None,
    ) -> Outputs | ReleasedOutputs | BaselineOutputs:
        """Everything that the pretraining objectives read.

        Args:
          params: unboxed parameters.
          batch: arrays as `data.batch.batch_spec` says.
          temperature: of the choices of `hard` fusion.
          key: of dropout and Gumbel noise; None is evaluation: neither, and the same every time.
        """
        return self._run(params, key, None, batch, temperature)

    def product(
        self,
        params: Params,
        batch: Batch,
        *,
        temperature: jax.Array | float = 1.0,
        key: jax.Array | None = None,
    ) -> Product:
        """The fused streams, the embedding and the attention over triples; as `apply`."""
        return self._run(params, key, "product", batch, temperature)

    def embed(self, params: Params, batch: Batch) -> jax.Array:
        """The products' embeddings c* [B, D], float32, at evaluation."""
        return self.product(params, batch).embedding

    def encode_candidates(
        self,
        params: Params,
        tokens: jax.Array,
        mask: jax.Array,
        property_spans: jax.Array,
        value_spans: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Triples free of any product: tokens, mask [Q, L], spans [Q, 2] -> p, v [Q, D]."""
        return self._run(params, key, "candidates", tokens, mask, property_spans, value_spans)

    def _run(self, params: Params, key: jax.Array | None, method: str | None, *args):
        # The release draws its choices at evaluation too: the same ones every time.
        dropout, gumbel = jax.random.split(jax.random.key(0) if key is None else key)
        return self._module(deterministic=key is None).apply(
            {"params": params}, *args, rngs={"dropout": dropout, "gumbel": gumbel}, method=method
        )

    def _module(self, deterministic: bool) -> nn.Module:
        return _MODULES[self.settings.model.preset](self.settings, deterministic)
