"""Batches to be embedded: nothing masked, nothing asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain

from k3m_jax.data.input.batch import PRODUCT_ARRAYS, Batch, inference_settings
from k3m_jax.data.input.examples import ExampleBuilder
from k3m_jax.data.input.pipeline import EVALUATION_SEED, LocalBatches, local_rows, prefetch
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store.value_vocabulary import ValueVocabulary
from k3m_jax.modalities.regions import RegionReader
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
    settings = inference_settings(settings)
    rows = settings.evaluation.batch
    prepare = ExampleBuilder(settings, tokenizer, ValueVocabulary((), ()), training=False)
    items = grain.MapDataset.concatenate([grain.MapDataset.source(source) for source in sources])
    items = items.map(RegionReader(settings.image)).random_map(prepare, seed=EVALUATION_SEED)
    mine = local_rows(settings, "evaluation.batch", rows, blocks, shards)
    batches = LocalBatches(items, settings, mine, range(-(-len(items) // rows)), answers=True)
    for batch in prefetch(batches, settings.data):
        yield {name: batch[name] for name in READ if name in batch}
