"""Shards of products in, batches of arrays out. Nothing here imports jax."""
