"""The pretraining objectives, one file each: what is hidden (NumPy) and the loss (jax)."""

from k3m_jax.objectives.base import Objective, sums, target_weights, total
from k3m_jax.objectives.link_prediction import LinkPrediction
from k3m_jax.objectives.masked_language import MaskedLanguage
from k3m_jax.objectives.masked_object import MaskedObject
from k3m_jax.objectives.second_view import SecondView
from k3m_jax.settings import Settings
from k3m_jax.settings.presets import PRESETS
from k3m_jax.settings.schema import check_choice

REGISTRY: dict[str, type[Objective]] = {
    o.name: o for o in (MaskedLanguage, MaskedObject, LinkPrediction, SecondView)
}


def active(settings: Settings) -> tuple[Objective, ...]:
    """The objectives of a pretraining run; raises UserError for a name that is not known."""
    extra = settings.objectives.extra
    for name in extra:
        check_choice("objectives.extra", name, REGISTRY)
    names = (*PRESETS[settings.model.preset].objectives, *extra)
    return tuple(REGISTRY[name].from_settings(settings) for name in names)
