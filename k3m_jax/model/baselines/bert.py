"""BERT (Devlin et al., 2019): text alone, the floor of what pictures can add."""

from k3m_jax.data.input.batch import Batch
from k3m_jax.model.baselines.baseline import Baseline, Streams


class Bert(Baseline):
    """The text encoder and nothing else."""

    def streams(self, batch: Batch) -> Streams:
        """Text [B, T, D], and no image."""
        (text,) = self.text_encoder((batch["title_tokens"], batch["title_mask"]))
        return text, None
