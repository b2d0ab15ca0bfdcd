"""Pretrained models outside of their runs: exported, opened again, asked for embeddings.

from k3m_jax.serving import from_pretrained

model = from_pretrained("FOLDER")
vectors = model.embed([model.record("1", title="a red dress", triples=[("colour", "red")])])
"""

from k3m_jax.serving.folder import from_pretrained

__all__ = ["from_pretrained"]
