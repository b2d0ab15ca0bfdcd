"""Pretrained models outside of their runs: exported, opened again, embedding products."""

from k3m_jax.serving.product_model import from_pretrained
