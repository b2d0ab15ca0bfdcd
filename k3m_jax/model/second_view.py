"""Second views as inputs: whose modalities each row of a batch shows (`objectives.second_view`)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from k3m_jax.data.input.batch import Batch
from k3m_jax.modalities.base import Modality
from k3m_jax.objectives.second_view import NONE, view_array


def has_second_view(batch: Batch) -> bool:
    """Whether a batch says what its rows' second views show."""
    return view_array("title") in batch


def second_batch(batch: Batch, kinds: Sequence[Modality], group: int) -> Batch:
    """The arrays of the modalities as second views show them; nothing else is in it."""
    names = {name: kind.name for kind in kinds for name in kind.arrays}
    if "region_hidden" in batch:  # or the picture would show what MOM asks for
        names["region_hidden"] = "image"
    return {
        name: batch[written]
        if (written := f"view_{name}") in batch
        else taken(batch[name], batch, kind, group)
        for name, kind in names.items()
    }


def taken(x: jax.Array, batch: Batch, modality: str, group: int) -> jax.Array:
    """Of x [B, …], what is known of a modality, the rows that second views take; 0 for none.

    Rows come from their own group, so none leaves its device.
    """
    rows = batch[view_array(modality)].reshape(-1, group)
    spread = (..., *[None] * (x.ndim - 1))
    grouped = x.reshape(-1, group, *x.shape[1:])
    chosen = jnp.take_along_axis(grouped, jnp.maximum(rows, 0)[spread], axis=1)
    chosen = jnp.where((rows != NONE)[spread], chosen, jnp.zeros((), x.dtype))
    return chosen.reshape(x.shape)
