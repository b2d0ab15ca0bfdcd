"""Whether data sets fit the settings and one another: what can be told before the first batch."""

from collections.abc import Sequence
from typing import Any

from k3m_jax.data.store.shards import BuildInfo, ShardSet
from k3m_jax.settings import Settings, UserError


def validate_sources(settings: Settings, shard_sets: Sequence[ShardSet]) -> None:
    """Raises UserError where a source contradicts the settings or another source."""
    for shards in shard_sets:
        sizes = [("image.front_end", settings.image.front_end, shards.info.front_end)]
        if has_pictures(shards.info):
            sizes += _sizes(settings, shards.info)
        for key, wanted, stored in sizes:
            if wanted != stored:
                raise UserError(
                    f"{key} is {wanted}, but {shards.folder} was built with {stored}: change the "
                    "setting, or build the shards anew"
                )
    if settings.image.front_end == "patches":
        return
    # Codebooks may differ (see `pipeline`), detectors may not: nothing maps their classes. Where a
    # detector told only the one class of a region, the largest seen says little of how many it has.
    with_pictures = [shards for shards in shard_sets if has_pictures(shards.info)]
    detectors = {s.info.classes for s in with_pictures if s.info.top_classes > 1}
    if len(detectors) > 1:
        folders = ", ".join(str(shards.folder) for shards in with_pictures)
        raise UserError(f"data.sources have regions of different detectors: {folders}")
    mom = settings.objectives.mom
    if with_pictures and not classes(shard_sets) and mom.variant == "kl" and mom.weight:
        raise UserError(
            f"objectives.mom.variant is 'kl', but the regions of {with_pictures[0].folder} have no "
            "class distribution: take 'regression' or 'nce'"
        )


def classes(shard_sets: Sequence[ShardSet]) -> int:
    """C: of the first codebook fitted to pictures, or of the detector; 0 where there is none."""
    counts = [shards.info.classes for shards in shard_sets if has_pictures(shards.info)]
    if not any(counts):
        return 0
    return counts[0] if shard_sets[0].info.front_end == "patches" else max(counts)


def has_pictures(info: BuildInfo) -> bool:
    """Whether any item has; where none has, what is said of pictures means nothing."""
    return info.missing["picture"] < sum(info.products.values())


def _sizes(settings: Settings, info: BuildInfo) -> list[tuple[str, Any, Any]]:
    """What must agree: key, what the settings say, what the data set says."""
    image = settings.image
    if image.front_end == "regions":
        return [("image.feature_dim", image.feature_dim, info.feature_dim)]
    return [
        ("image.patch_size", image.patch_size, info.patch_size),
        ("image.regions", image.regions, info.regions),
    ]
