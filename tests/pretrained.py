"""Other people's models at a tiny size, and settings into which they fit."""

import dataclasses
import json
import operator
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from tiny import TINY, tiny_settings

from k3m_jax import settings as s
from k3m_jax.model.encoders import TextEncoder
from k3m_jax.model.layers import KeyMask, Numerics, SelfAttentionLayer

GOLDEN = pathlib.Path(__file__).parent / "golden"
HF_BERT = GOLDEN / "hf_bert"
FLOAT32 = Numerics(dropout=0.0, dtype=np.dtype(np.float32), deterministic=True)


def bert_settings(positions: int = 40, **text) -> s.Settings:
    """Those of the golden BERT; `text` changes a size."""
    sizes = {"layers": 3, "width": 32, "heads": 4, "mlp": 64} | text
    model = dataclasses.replace(
        TINY.model, text=s.Encoder(**sizes), vocabulary=120, positions=positions
    )
    return tiny_settings(model=model)


def hidden_states(text: s.Encoder, params, tokens, mask):
    """Of the embeddings, then of each layer; the last is the whole encoder's output."""
    encoder = TextEncoder(text, len(params["words"]), len(params["position_table"]), FLOAT32)
    (last,), seen = encoder.apply(
        {"params": params},
        (tokens, mask),
        capture_intermediates=lambda module, _: module.name == "norm",
    )
    (hidden,) = jax.tree.leaves(seen["intermediates"])
    layer, keys = SelfAttentionLayer(text, "embed", FLOAT32), KeyMask(mask)
    run = jax.jit(lambda layer_params, x: layer.apply({"params": layer_params}, x, keys)[0])
    states = [hidden]
    for i in range(text.layers):
        states.append(run(jax.tree.map(operator.itemgetter(i), params["layers"]), states[-1]))
    return [*states[:-1], last]


def relative_error(ours, golden) -> float:
    """As the golden values' own page defines it."""
    return float(np.abs(np.asarray(ours) - golden).max() / np.abs(golden).max())


def rewritten(folder: pathlib.Path, tensors=lambda t: t, config=lambda c: c) -> pathlib.Path:
    """The golden BERT with other tensors or another configuration, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    original = json.loads((HF_BERT / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config(original)))
    changed = tensors(load_file(HF_BERT / "model.safetensors"))
    save_file(
        {k: np.ascontiguousarray(v) for k, v in changed.items()}, folder / "model.safetensors"
    )
    return folder
