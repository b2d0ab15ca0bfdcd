"""The folder that a model leaves in: what lies where, and how it comes back.

    config.json               format and its version, settings, functions with their arguments
    model.safetensors         parameters under our names, float32
    tokenizer.json, …         what transformers' AutoTokenizer opens
    preprocessor_config.json  what a picture goes through
    embed.jax_export, …       functions as artefacts of `jax.export`
    preprocess.py             products to arrays without k3m_jax
    README.md                 the model card

A change that an older reader would misread gets another `VERSION`, and `from_pretrained` keeps
reading all of them; tests/golden has a folder of each.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from PIL import Image

from k3m_jax import settings
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store import remote
from k3m_jax.modalities import pixels
from k3m_jax.model.network import Network, Params
from k3m_jax.pretrained.weights_file import WEIGHTS, fit, read_weights, write_weights
from k3m_jax.serving import preprocess
from k3m_jax.serving.functions import serialise, signatures
from k3m_jax.serving.product_model import ProductModel
from k3m_jax.settings import Settings, UserError

FORMAT, VERSION = "k3m_jax", 1
KEYS = {"version": int, "settings": dict, "tokenizer_sha256": str}  # that every reader needs
CONFIG, CARD = "config.json", "README.md"
PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
ARTEFACT = ".jax_export"


def write(
    folder: epath.PathLike,
    network: Network,
    params: Params,
    tokenizer: Tokenizer,
    *,
    platforms: Sequence[str],
    origin: Mapping[str, Any],
    card: str,
) -> None:
    """Writes the folder, local or remote; a local one appears when all is in it.

    Args:
      folder: must not exist, or be empty.
      network: the model.
      params: of it.
      tokenizer: that it was trained with.
      platforms: of the artefacts, of `functions.PLATFORMS`; none makes no artefacts.
      origin: where the model comes from, kept in config.json.
      card: the text of README.md.

    Raises:
      UserError: there is something in the folder, or an unknown platform.
    """
    functions = signatures(network)
    with remote.whole_folder(folder) as partial:
        tokenizer.save(partial)
        for name, signature in functions.items() if platforms else ():
            (partial / f"{name}{ARTEFACT}").write_bytes(serialise(network, signature, platforms))
        write_weights(partial / WEIGHTS, params, origin)
        shutil.copy(preprocess.__file__, partial / "preprocess.py")
        (partial / CARD).write_text(card, encoding="utf-8")
        _write_json(partial / PREPROCESSOR, picture_processing(network.settings.image))
        _write_json(
            partial / CONFIG,
            {
                "format": FORMAT,
                "version": VERSION,
                "origin": origin,
                # Of the file, not the vocabulary's fingerprint: other versions of the tokenizers
                # library may write the same pipeline otherwise.
                "tokenizer_sha256": _sha256(partial / TOKENIZER),
                "settings": dataclasses.asdict(portable(network.settings)),
                "platforms": list(platforms),
                "jax": jax.__version__,
                "functions": {
                    name: [jax.tree.map(dataclasses.asdict, shapes) for shapes in signature.shapes]
                    for name, signature in functions.items()
                },
            },
        )


def from_pretrained(folder: epath.PathLike) -> ProductModel:
    """Opens a folder, local or remote, that `python -m launch.export` wrote.

    Raises:
      UserError: it is none, it is of a newer format, or something in it is missing or was changed.
    """
    folder = epath.Path(folder)
    config = read_config(folder)
    chosen = Settings.from_config(config["settings"])
    if not (folder / TOKENIZER).exists():
        raise UserError(f"{folder} is not whole: its {TOKENIZER} is missing; export it again")
    if _sha256(folder / TOKENIZER) != config["tokenizer_sha256"]:
        raise UserError(
            f"{folder / TOKENIZER} is not the one that was exported, and the model would read "
            "other words: export it again"
        )
    network, weights = Network(chosen), folder / WEIGHTS
    params = fit(read_weights(weights)[0], network, weights)
    return ProductModel(network, params, Tokenizer.load(folder))


def read_config(folder: epath.Path) -> dict[str, Any]:
    """config.json, held against the formats that can be read; raises UserError."""
    path, how = folder / CONFIG, "python -m launch.export writes one"
    if not path.exists():
        raise UserError(f"{folder} is not an exported model: there is no {path}; {how}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{folder} is not a model exported by {FORMAT}; {how}")
    if lacking := [key for key, kind in KEYS.items() if not isinstance(config.get(key), kind)]:
        raise UserError(f"{path} is damaged: it has no {lacking[0]} that can be read; {how}")
    if config["version"] > VERSION:
        raise UserError(
            f"{folder} has version {config['version']} of the format, and this k3m_jax reads up to "
            f"{VERSION}: install a newer one"
        )
    return config


def portable(chosen: Settings) -> Settings:
    """Settings without what means nothing elsewhere: where data and weights lay, the mesh, …"""
    nowhere = dataclasses.replace(chosen.data, sources=(), weights=(), tokenizer="", workers=0)
    return dataclasses.replace(
        chosen,
        init_from="",
        data=nowhere,
        optimizer=dataclasses.replace(chosen.optimizer, imported_rate=1.0),
        mesh=settings.Mesh(),
        debug=settings.Debug(),
    )


def picture_processing(image: settings.Image) -> dict[str, Any]:
    """preprocessor_config.json: the names are transformers' own where it has one."""
    if image.front_end == "regions":
        return {
            "front_end": "regions",
            "regions": image.regions,
            "feature_dim": image.feature_dim,
            "feature_dtype": "float16",
            "boxes": "x1, y1, x2, y2, area as shares of the picture; row 0 is 0, 0, 1, 1, 1",
        }
    side = image.grid * image.patch_size
    return {
        "front_end": "patches",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": side},
        "resample": int(Image.Resampling.LANCZOS),
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "pad_color": "white",
        "jpeg_quality": pixels.QUALITY,
        "patch_size": image.patch_size,
        "patches": image.regions,
        # Done inside the functions, which take pixels 0..255: (x / 255 - mean) / std.
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "boxes": "x1, y1, x2, y2, area as shares of the picture; row 0 is 0, 0, 1, 1, 1",
    }


def _sha256(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
