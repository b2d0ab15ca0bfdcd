"""Other implementations, reproduced; importing this registers their presets."""

from k3m_jax.reproductions import baselines as baselines
from k3m_jax.reproductions import release as release
