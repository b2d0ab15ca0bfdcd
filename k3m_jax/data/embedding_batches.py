"""Batches to be embedded: nothing masked, nothing asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain

from k3m_jax.data.batch import PRODUCT_ARRAYS, Batch, unquestioning
from k3m_jax.data.examples import Prepare
from k3m_jax.data.links import LinkTable
from k3m_jax.data.pipeline import EVALUATION_SEED, LocalBatches, local_rows, prepared
from k3m_jax.data.regions import ReadRegions
from k3m_jax.data.tokenization import Tokenizer
from k3m_jax.settings import Settings

# What the model reads of a batch; nothing is hidden, and it wants to be told so.
READ = (*PRODUCT_ARRAYS, "region_hidden")


def embedding_batches(
    settings: Settings,
    sources: Sequence[Sequence[Mapping[str, Any]]],
    tokenizer: Tokenizer,
    *,
    blocks: Sequence[int] = (0,),
    shards: int = 1,
) -> Iterator[Batch]:
    """One pass over the records of all sources, one after the other; the last batch is filled up.

    Args:
      settings: resolved; `evaluation.batch` says how many rows.
      sources: of records, as `shards.ProductSource` or `task_source.TaskSource` give them.
      tokenizer: of titles and knowledge.
      blocks: indices of this host's blocks of rows among …
      shards: … so many contiguous blocks of each batch.
    """
    settings = unquestioning(settings)
    rows = settings.evaluation.batch
    prepare = Prepare(settings, tokenizer, LinkTable((), ()), training=False)
    items = grain.MapDataset.concatenate([grain.MapDataset.source(source) for source in sources])
    items = items.map(ReadRegions(settings.image)).random_map(prepare, seed=EVALUATION_SEED)
    mine = local_rows(settings, "evaluation.batch", rows, blocks, shards)
    batches = LocalBatches(items, settings, mine, range(-(-len(items) // rows)), answers=True)
    for batch in prepared(batches, settings.data):
        yield {name: batch[name] for name in READ if name in batch}
