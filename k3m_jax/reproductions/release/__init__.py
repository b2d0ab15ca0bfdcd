"""The authors' public PyTorch code, to the digit: the preset `release`, registered on import."""

from k3m_jax.data.catalog import readers
from k3m_jax.model.network import MODULES, Params
from k3m_jax.objectives import REGISTRY
from k3m_jax.pretrained.importing import FORMATS, Tensors
from k3m_jax.reproductions.baselines.weights import VILBERT, vilbert_views
from k3m_jax.reproductions.release.catalog import ReleaseReader
from k3m_jax.reproductions.release.flops import released_flops
from k3m_jax.reproductions.release.model import ReleasedK3M
from k3m_jax.reproductions.release.objectives import MaskedValues, ProductPairs
from k3m_jax.reproductions.release.validation import validate_release
from k3m_jax.reproductions.release.weights import RELEASE
from k3m_jax.settings.presets import PRESETS, Preset
from k3m_jax.training import flops


def _vilbert_views(params: Params) -> Tensors:
    """ViLBERT's co-attention goes into the release's blocks between title and image."""
    return vilbert_views({"interactor": params.get("title_image"), **params})


PRESETS["release"] = Preset(
    ("title", "image", "knowledge"),
    ("mlm", "mom", "mvm", "structure"),
    validate_release,
    layer_schedule=True,
)
MODULES["release"] = ReleasedK3M
REGISTRY |= {objective.name: objective for objective in (MaskedValues, ProductPairs)}
flops.MODELS["release"] = released_flops
readers.FORMATS["release"] = ReleaseReader
flops.HEADS["mvm"] = lambda s: flops.language_head(s, s.lengths.knowledge)
FORMATS |= {"k3m": RELEASE, "vilbert": VILBERT._replace(views=_vilbert_views)}
