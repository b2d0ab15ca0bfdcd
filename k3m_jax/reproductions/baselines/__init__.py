"""Published models to compare K3M with, of the same layers, pooled and trained the same way.

Importing this registers their presets and the formats of their weights.
"""

from typing import Any

from k3m_jax.model.network import MODULES
from k3m_jax.pretrained.importing import FORMATS
from k3m_jax.reproductions.baselines import flops as formulas
from k3m_jax.reproductions.baselines.single_stream import Bert, VlBert
from k3m_jax.reproductions.baselines.two_streams import Lxmert, Vilbert
from k3m_jax.reproductions.baselines.weights import LXMERT, VILBERT
from k3m_jax.settings import UserError
from k3m_jax.settings.presets import PRESETS, Preset
from k3m_jax.training import flops


def _validate_lxmert(settings: Any) -> None:
    model = settings.model
    if not model.text.width == model.image.width == model.interactor.width:
        raise UserError(
            "model.preset 'lxmert' has one width: set model.text.width, model.image.width and "
            "model.interactor.width to the same number"
        )


PRESETS |= {
    "bert": Preset(("title",), ("mlm",)),
    "vilbert": Preset(("title", "image"), ("mlm", "mom")),
    "vlbert": Preset(("title", "image"), ("mlm", "mom")),
    "lxmert": Preset(("title", "image"), ("mlm", "mom"), _validate_lxmert),
}
MODULES |= {"bert": Bert, "vilbert": Vilbert, "vlbert": VlBert, "lxmert": Lxmert}
flops.MODELS |= {
    "bert": flops.texts,
    "vilbert": flops.two_streams,
    "vlbert": formulas.vlbert,
    "lxmert": formulas.lxmert,
}
flops.IMAGE_WIDTHS["vlbert"] = lambda s: s.model.text.width
FORMATS |= {"vilbert": VILBERT, "lxmert": LXMERT}
