"""What a core makes of items, against what the disk gives."""

import time
from typing import Any

from k3m_jax.compile_check.cost import measure_input
from k3m_jax.data.input.pipeline import Inputs
from k3m_jax.settings import Settings


def measure_batches(settings: Settings, inputs: Inputs, steps: int) -> dict[str, Any]:
    """What a core makes of items, and what the disk gives."""
    cost = measure_input(settings, inputs, steps)
    files = [f for each in inputs.shard_sets for f in each.folder.glob("*.array_record*")]
    started, size = time.perf_counter(), 0
    for file in files:
        size += len(file.read_bytes())
    seconds = time.perf_counter() - started
    stored = sum(sum(each.info.products.values()) for each in inputs.shard_sets)
    return {
        "items_per_core_second": cost.rate,
        "bytes_per_item_of_batch": cost.bytes_per_item,
        "bytes_per_item_stored": size / stored,
        "disk_bytes_per_second": size / seconds,
        "disk_items_per_second": stored / seconds,
    }
