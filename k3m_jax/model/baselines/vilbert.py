"""ViLBERT (Lu et al., 2019): two streams that meet in co-attention blocks.

K3M's encoders and interactor, and nothing behind them: no fusion with what was before the
interaction, no aggregation of triples. As in K3M here, all layers come before the first block;
ViLBERT's own code runs them in turns.
"""

from k3m_jax.model.baselines.two_streams import TwoStreams


class Vilbert(TwoStreams):
    """Co-attention between regions embedded as K3M's are and text."""
