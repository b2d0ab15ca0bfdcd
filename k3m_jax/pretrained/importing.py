"""Someone's weights as a folder that a run can start from: `init_from`.

model.safetensors    parameters under our names, float32: those that the weights fill
tokenizer.json, …    the tokenizer that they were trained with, where one is known

A format says which tensor is which parameter by *views*: our arrays, sliced and transposed to the
shapes of the tensors, by the names of the tensors. Reading fills the views. Every name of a file is
used, known and ignored, or refused. Never through pickle: a PyTorch file is opened by torch's own
loader of weights alone, which runs no code from the file.
"""

import json
import math
import operator
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from k3m_jax import settings
from k3m_jax.data.input.tokenizer import Tokenizer, holds_tokenizer
from k3m_jax.data.store import remote
from k3m_jax.model.network import Network, Params, flat, nested
from k3m_jax.pretrained import weights_file
from k3m_jax.pretrained.parts import check_parts
from k3m_jax.settings import Settings, UserError

Config = Mapping[str, Any]  # a config.json
Sizes = Sequence[tuple[str, str, Any]]  # a key of theirs, the setting that is the same, its value
Tensors = dict[str, np.ndarray]  # by their names

CONFIG = "config.json"
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors")  # whole, or in parts
PYTORCH = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "*.pt", "*.pth", "*.bin")
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
MLM_HEAD = "cls.predictions."
BY_TOKEN = (WORDS, f"{MLM_HEAD}decoder.weight", f"{MLM_HEAD}decoder.bias", f"{MLM_HEAD}bias")
# What the layers here compute; a missing key says the same.
ARCHITECTURE = {
    "hidden_act": "gelu",  # the exact one, with erf
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
}


class Format(NamedTuple):
    """A kind of weights that can be imported."""

    kind: str  # for messages
    # Raises UserError where the model of config.json (its path, its content) is not the run's.
    check_config: Callable[[epath.Path, Config, Settings], None]
    views: Callable[[Params], Tensors]  # of our parameters; tied names have the same view
    ignored: str  # pattern of names that such a model may have and ours does not need
    optional: str = ""  # how names begin that may all be absent


class Imported(NamedTuple):
    """The result of an import."""

    params: Params  # NumPy: those that the weights fill, no others
    used: tuple[str, ...]  # names of tensors
    ignored: tuple[str, ...]  # known ones that were not used

    def report(self) -> str:
        """One line on what was used and what was ignored."""
        arrays = jax.tree.leaves(self.params)
        return (
            f"loaded {len(self.used)} tensors into {len(arrays)} parameters "
            f"({sum(x.size for x in arrays):,} numbers); {len(self.ignored)} known names ignored"
            f"{': ' if self.ignored else ''}{', '.join(self.ignored)}"
        )


def import_weights(
    format: str,
    folder: epath.PathLike,
    output: epath.PathLike,
    chosen: Settings,
    tokenizer: Tokenizer | None,
) -> Imported:
    """Writes to `output`, which must not exist or be empty, a folder that `init_from` reads.

    Both folders may be remote; `chosen` and `tokenizer` are of the run that is to start from the
    weights, None for the weights' own tokenizer. Raises UserError as `read_params`, or where the
    tokenizers differ.
    """
    folder = epath.Path(folder)
    remote.check_empty(output)
    own = Tokenizer.load(folder) if holds_tokenizer(folder) else None
    if own and tokenizer and (difference := tokenizer.difference(own)):
        vocabulary = f"the run's vocabulary is not that of {folder} ({difference})"
        raise UserError(f"{vocabulary}: set --config.data.tokenizer={folder}")
    tokenizer, config = tokenizer or own, read_config(folder)
    chosen = chosen.resolved(
        vocabulary=tokenizer.size if tokenizer else config.get("vocab_size", 0),
        classes=chosen.image.classes or config.get("v_target_size", 1),
    )
    imported = read_params(format, folder, chosen)
    meta = {"format": format, "source": remote.absolute(folder).name}
    meta["tensors"] = len(imported.used)
    with remote.whole_folder(output) as partial:
        if tokenizer:
            tokenizer.save(partial)
        weights_file.write_weights(partial / weights_file.WEIGHTS, imported.params, meta)
    return imported


def read_params(format: str, folder: epath.PathLike, chosen: Settings) -> Imported:
    """Parameters of the model of `chosen` (resolved settings) from a folder of weights.

    Raises UserError where the weights are of other sizes or parts, or as `read_tensors`.
    """
    folder = epath.Path(folder)
    FORMATS[format].check_config(folder / CONFIG, read_config(folder), chosen)
    tensors = read_folder(folder)
    try:
        return read_tensors(FORMATS[format], tensors, nested(Network(chosen).abstract_params()))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def read_tensors(format: Format, tensors: Tensors, params: Params) -> Imported:
    """Tensors, by the names of a file, as those of `params` (abstract) that they fill.

    Position tables are resized: row i of ours is row i mod n of the n imported ones. Raises
    UserError for an unknown or a missing name, a shape that does not fit, tied tensors that differ.
    """
    arrays = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), params)
    try:
        views = format.views(arrays)
    except KeyError as error:
        reason = f"{format.kind} fills {error}, which the model lacks"
        raise UserError(f"{reason}: set model.preset to one that has it") from error
    names = _canonical_names(tensors, views, format.kind)
    if format.optional and not any(name.startswith(format.optional) for name in names):
        views = {name: x for name, x in views.items() if not name.startswith(format.optional)}
    others = {name: given for name, given in names.items() if name not in views}
    if unknown := [x for name, x in others.items() if not re.fullmatch(format.ignored, name)]:
        raise UserError(f"{min(unknown)} is no name of {format.kind}, one of {len(unknown)}")
    read = {name: np.asarray(tensors[names[name]], np.float32) for name in views if name in names}
    for name, tensor in read.items():
        view = views[name]
        if name.endswith(POSITIONS) and len(tensor):
            read[name] = tensor = tensor[np.arange(len(view)) % len(tensor)]
        if name.endswith(BY_TOKEN) and len(tensor) > len(view):  # padded, see `check_sizes`
            read[name] = tensor = tensor[: len(view)]
        if tensor.shape != view.shape:
            shapes = f"{tensor.shape}, the model's settings need {view.shape}"
            raise UserError(f"{names[name]} has the shape {shapes}")
        if np.isnan(tensor).any():
            raise UserError(f"{names[name]} holds NaN")
        view[...] = tensor
    if differing := [name for name, tensor in read.items() if (views[name] != tensor).any()]:
        raise UserError(f"{names[differing[0]]} differs from another tensor, but they are tied")
    if lacking := [name for name, x in views.items() if name not in read and np.isnan(x).any()]:
        raise UserError(f"{format.kind} lacks {lacking[0]}, one of {len(lacking)}")
    filled = {name: x for name, x in flat(arrays).items() if not np.isnan(x).any()}
    used = sorted(names[name] for name in read)
    return Imported(nested(filled), tuple(used), tuple(sorted(others.values())))


def _canonical_names(tensors: Tensors, views: Tensors, kind: str) -> dict[str, str]:
    """Names of a file by the format's own names.

    A file may have them behind a wrapper's prefix, or be of the encoder alone, without its prefix;
    old ones call LayerNorm's parameters gamma and beta.
    """
    tables = [name for name in tensors if name == WORDS or name.endswith(f".{WORDS}")]
    if len(tables) != 1:
        raise UserError(f"{kind} has one …{WORDS}, and these weights have {len(tables)}")
    encoder = next(name for name in views if name.endswith(WORDS)).removesuffix(WORDS)
    wrapper = tables[0].removesuffix(WORDS).removesuffix(encoder)

    def canonical(name: str) -> str:
        name = re.sub(r"(LayerNorm\d?)\.gamma$", r"\1.weight", name.removeprefix(wrapper))
        name = re.sub(r"(LayerNorm\d?)\.beta$", r"\1.bias", name)
        return encoder + name if encoder + name in views else name

    return {canonical(name): name for name in tensors}


def read_config(folder: epath.Path) -> dict[str, Any]:
    """`config.json`, which has the sizes of the weights; UserError where it can't be read."""
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        reason = f"{folder} has no readable {CONFIG} ({error})"
        raise UserError(f"{reason}: name the folder of the weights and their {CONFIG}") from error


def read_folder(folder: epath.Path) -> Tensors:
    """All tensors of a folder, of its safetensors where it has any.

    Raises UserError without weights, for a damaged file, or for PyTorch's without torch.
    """
    for pattern in SAFETENSORS + PYTORCH:
        if paths := sorted(folder.glob(pattern)):
            check_parts(folder, [path.name for path in paths])
            read = weights_file.read_weights if pattern in SAFETENSORS else _read_pytorch
            return {name: tensor for path in paths for name, tensor in read(path)[0].items()}
    raise UserError(f"{folder} has no weights, neither {SAFETENSORS[0]} nor {PYTORCH[0]}")


def _read_pytorch(path: epath.Path) -> tuple[Tensors, None]:
    """As `read_weights`, without meta."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, and torch can't be imported ({error}): "
            f"pip install -r requirements-torch.txt, or save the model as {SAFETENSORS[0]}"
        ) from error
    try:
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        # NumPy has no bfloat16.
        floats = {n: x.float() if x.is_floating_point() else x for n, x in state.items()}
        return {n: x.numpy() for n, x in floats.items()}, None
    except Exception as error:  # pickle's own, zipfile's, torch's: each damage has another
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: torch finds more than weights in it, or can't read it ({reason[0][:200]}): "
            f"save the model's state_dict() alone, or as {SAFETENSORS[0]}"
        ) from error


def check_architecture(path: epath.Path, config: Config, **more: Any) -> None:
    """Raises UserError where a model computes something that ours does not; `more` adds keys."""
    for key, only in (ARCHITECTURE | more).items():
        if (found := config.get(key, only)) != only:
            raise UserError(f"{path}: {key} is {found!r}, not {only!r}: take other weights")


def check_sizes(path: epath.Path, config: Config, chosen: Settings, sizes: Sizes) -> None:
    """Raises UserError where a size is missing or differs from the setting, with all changes."""
    if lacking := [key for key, _, _ in sizes if key not in config]:
        raise UserError(f"{path} has no {lacking[0]}: these are not weights of that format")
    if differing := [(key, config[key], s, ours) for key, s, ours in sizes if config[key] != ours]:
        found = "; ".join(f"{k} is {theirs}, but {s} is {ours}" for k, theirs, s, ours in differing)
        needed = " ".join(shlex.quote(f"--config.{s}={theirs}") for _, theirs, s, _ in differing)
        raise UserError(f"{path}: {found}: set {needed}")
    found, ours = config.get("vocab_size"), chosen.model.vocabulary
    # A table may be padded: with a tokenizer beside it, it is known which rows mean something.
    padded = isinstance(found, int) and found > ours and holds_tokenizer(path.parent)
    if found != ours and not padded:
        raise UserError(
            f"{path}: vocab_size is {found}, but the run's tokenizer has {ours} tokens: name that "
            "of the weights, --config.data.tokenizer=FOLDER"
        )


def encoder_sizes(prefix: str, setting: str, sizes: settings.Encoder) -> Sizes:
    """Of an encoder, for `check_sizes`."""
    return [
        (f"{prefix}num_hidden_layers", f"{setting}.layers", sizes.layers),
        (f"{prefix}hidden_size", f"{setting}.width", sizes.width),
        (f"{prefix}num_attention_heads", f"{setting}.heads", sizes.heads),
        (f"{prefix}intermediate_size", f"{setting}.mlp", sizes.mlp),
    ]


def linear(theirs: str, ours: Params, inputs: int = 1) -> Tensors:
    """Views of a Linear; the first `inputs` dimensions of our kernel are the last of theirs."""
    kernel, bias = ours["kernel"], ours["bias"]
    rows = math.prod(kernel.shape[:inputs])
    return {f"{theirs}.weight": kernel.reshape(rows, -1).T, f"{theirs}.bias": bias.reshape(-1)}


def layer_norm(theirs: str, ours: Params) -> Tensors:
    """Views of a LayerNorm."""
    return {f"{theirs}.weight": ours["scale"], f"{theirs}.bias": ours["bias"]}


def attention(theirs: str, out: str, ours: Params, norm: Params) -> Tensors:
    """Views of an attention's maps named `theirs`, and of what follows them, named `out`."""
    views = linear(f"{out}.dense", ours["out"], inputs=2) | layer_norm(f"{out}.LayerNorm", norm)
    for name in ("query", "key", "value"):
        views |= linear(f"{theirs}.{name}", ours[name])
    return views


def feed_forward(theirs: str, out: str, ours: Params) -> Tensors:
    """Views of the second half of a Transformer layer."""
    return {
        **linear(f"{theirs}.dense", ours["mlp_in"]),
        **linear(f"{out}.dense", ours["mlp_out"]),
        **layer_norm(f"{out}.LayerNorm", ours["mlp_norm"]),
    }


def layer(theirs: str, ours: Params) -> Tensors:
    """Views of a Transformer layer."""
    maps, out = f"{theirs}.attention.self", f"{theirs}.attention.output"
    attended = attention(maps, out, ours["attention"], ours["attention_norm"])
    return attended | feed_forward(f"{theirs}.intermediate", f"{theirs}.output", ours)


def stacked(views: Callable[[str, Params], Tensors], theirs: str, ours: Params) -> Tensors:
    """`views` of each layer `theirs.i`; ours keeps all layers of a stack in one array."""
    found = {}
    for i in range(len(jax.tree.leaves(ours)[0])):
        found |= views(f"{theirs}.{i}", jax.tree.map(operator.itemgetter(i), ours))
    return found


def text_stream(encoder: str, params: Params) -> Tensors:
    """Views of the text encoder, `encoder` before their names, and of the MLM head."""
    text, head = params["text_encoder"], params["mlm_head"]
    return {
        f"{encoder}{WORDS}": text["words"],
        f"{encoder}{POSITIONS}": text["position_table"],
        f"{encoder}embeddings.token_type_embeddings.weight": text["type_table"],
        **layer_norm(f"{encoder}embeddings.LayerNorm", text["norm"]),
        **stacked(layer, f"{encoder}encoder.layer", text["layers"]["layer"]),
        **linear(f"{MLM_HEAD}transform.dense", head["transform"]),
        **layer_norm(f"{MLM_HEAD}transform.LayerNorm", head["norm"]),
        f"{MLM_HEAD}decoder.weight": text["words"],  # tied, and left out of some files
        f"{MLM_HEAD}bias": head["bias"],
        f"{MLM_HEAD}decoder.bias": head["bias"],
    }


def _check_bert(path: epath.Path, config: Config, chosen: Settings) -> None:
    check_architecture(path, config, model_type="bert")
    check_sizes(path, config, chosen, encoder_sizes("", "model.text", chosen.model.text))


FORMATS = {
    "bert": Format(  # of any size (Devlin et al., 2019)
        "BERT",
        _check_bert,
        lambda params: text_stream("bert.", params),
        r"(bert\.)?(pooler\.dense\.\w+|embeddings\.position_ids)|cls\.seq_relationship\.\w+",
        MLM_HEAD,
    ),
}
