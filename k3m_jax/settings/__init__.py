"""The one schema of everything configurable; configuration files change `default_config()`."""

from k3m_jax.settings.groups import (
    Corruption,
    Data,
    Debug,
    Distributed,
    Encoder,
    Evaluation,
    Fusion,
    Image,
    Interactor,
    Lengths,
    LinkPrediction,
    MaskedLanguage,
    MaskedObject,
    Mesh,
    Model,
    Objectives,
    Optimizer,
    Structure,
    Task,
    Training,
    Weighted,
)
from k3m_jax.settings.schema import UserError
from k3m_jax.settings.settings import Settings, default_config
