"""From a catalog to shards."""
