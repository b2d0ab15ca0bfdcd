"""Baselines at the cost of `configs/quickstart.py`: `:vilbert`, `:vlbert_pkg`, `:bert,debug`, …

NAME_pkg has the triples as text behind the title. `launch.compare_cost` prints what each costs;
docs/baselines.md says how sizes were chosen. Shards as for `configs/quickstart.py`.
"""

import ml_collections

from configs import quickstart
from configs.debug import variant
from k3m_jax.settings import UserError

# Where they are not the quickstart's.
SIZES = {
    "bert": {"text": {"mlp": 2304}},
    "bert_pkg": {"text": {"width": 128}},
    "vilbert": {"image": {"layers": 3}, "interactor": {"blocks": 3}},
    "vilbert_pkg": {
        "text": {"layers": 1, "mlp": 64},
        "image": {"layers": 3, "mlp": 256},
        "interactor": {"text_mlp": 64},
    },
    "vlbert": {"text": {"width": 112}},
    "vlbert_pkg": {"text": {"width": 80}},
    "lxmert": {
        "text": {"mlp": 64},
        "image": {"layers": 3, "mlp": 64},
        "interactor": {"blocks": 3, "text_mlp": 64, "image_mlp": 64},
    },
    "lxmert_pkg": {
        "text": {"layers": 1},
        "image": {"layers": 3, "mlp": 256},
        "interactor": {"blocks": 1, "image_mlp": 256},
    },
}


def get_config(name: str = "") -> ml_collections.ConfigDict:
    baseline, _, small = (name if name not in ("", "debug") else f"vilbert,{name}").partition(",")
    if baseline not in SIZES:
        raise UserError(f"--config: {baseline!r} is not one of {', '.join(SIZES)}")
    config = quickstart.get_config()
    preset, _, pkg = baseline.partition("_")
    config.model.update({"preset": preset, "knowledge_text": bool(pkg), **SIZES[baseline]})
    return variant(config, small)
