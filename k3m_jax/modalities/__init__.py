"""What is known of each modality, one file each."""

from k3m_jax.modalities.base import Modality
from k3m_jax.modalities.knowledge import Knowledge, Title
from k3m_jax.modalities.picture import PictureModality
from k3m_jax.settings import Settings
from k3m_jax.settings.presets import PRESETS
from k3m_jax.settings.schema import check_choice

REGISTRY: dict[str, type[Modality]] = {m.name: m for m in (Title, PictureModality, Knowledge)}


def active(settings: Settings) -> tuple[Modality, ...]:
    """The modalities that a run's batches hold; raises UserError for a name that is not known."""
    extra = settings.model.extra_modalities
    for name in extra:
        check_choice("model.extra_modalities", name, REGISTRY)
    names = (*PRESETS[settings.model.preset].modalities, *extra)
    return tuple(REGISTRY[name].from_settings(settings) for name in names)
