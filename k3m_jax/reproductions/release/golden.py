"""The `release` preset against numbers of the PyTorch release: outputs, gradients, trajectory.

A folder of golden values holds `config.json`, `model.safetensors`, `inputs.npz` and, by mode of
fusion, `outputs_MODE.npz`, `grads_MODE.npz` and `trajectory_MODE.json`; any of the last three kinds
may be lacking.
"""

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from k3m_jax import objectives
from k3m_jax.model.network import Network, flat, nested
from k3m_jax.objectives.base import safe_ratio
from k3m_jax.pretrained.importing import CONFIG, SAFETENSORS, read_config, read_tensors
from k3m_jax.pretrained.weights_file import read_weights
from k3m_jax.reproductions.release.golden_inputs import (
    read_arrays,
    read_trajectory,
    released_batch,
    released_settings,
    sizes_of,
)
from k3m_jax.reproductions.release.model import SAMPLE_NOISE, ByModality, ReleasedOutputs, bound
from k3m_jax.reproductions.release.weights import RELEASE, model_settings
from k3m_jax.settings import Fusion, Settings, UserError

OUTPUT_LIMIT, GRADIENT_LIMIT, TRAJECTORY_LIMIT = 1e-5, 1e-4, 1e-4
# Some gradients are nothing but round-off: they are held against this share of the largest.
GRADIENT_FLOOR = 1e-3

STREAMS = ("t", "v", "pv")  # as the release calls title, image and knowledge
NOISE = "gumbel_"  # what `hard` fusion drew for each of these, next to its outputs

# A loss of the release and what it is called here.
LOSSES = {
    "loss_mlm": "mlm",
    "loss_mom": "mom",
    "loss_mlm_pv": "mvm",
    "loss_struct": "structure",
    "loss_match": "match_loss",
}


class Difference(NamedTuple):
    """How far one tensor is off."""

    mode: str
    kind: str  # outputs, gradients or trajectory
    tensor: str
    error: float  # max|ours − golden| / max|golden|
    limit: float

    @property
    def within(self) -> bool:
        """Not so for NaN."""
        return self.error <= self.limit


# Products of float32 matrices in float32: accelerators would keep 8 to 11 bits of the factors.
@jax.default_matmul_precision("highest")
def compare(folder: epath.PathLike) -> list[Difference]:
    """Every tensor of a folder of golden values against ours, in float32.

    Raises:
      UserError: a file, an array or a key that is lacking or not understood.
    """
    golden = _Golden(epath.Path(folder))
    results = [each for mode in golden.modes("outputs", "npz") for each in golden.outputs(mode)]
    results += [each for mode in golden.modes("grads", "npz") for each in golden.gradients(mode)]
    results += [golden.trajectory(mode) for mode in golden.modes("trajectory", "json")]
    if not results:
        raise UserError(f"{folder} has no outputs_MODE.npz, nothing to compare with")
    return results


def table(differences: Sequence[Difference]) -> str:
    """Relative errors, a line for each tensor and a column for each mode of fusion.

    Of the gradients, which are many, the worst stands for all; it is named below.
    """
    modes = sorted({each.mode for each in differences})
    cells: dict[str, dict[str, str]] = {}
    notes = []
    for mode in modes:
        own = [each for each in differences if each.mode == mode]
        gradients = [each for each in own if each.kind == "gradients"]
        for each in own:
            if each.kind != "gradients":
                cells.setdefault(each.tensor, {})[mode] = _cell(each)
        if gradients:
            worst = max(gradients, key=lambda each: each.error)
            cells.setdefault("gradients", {})[mode] = _cell(worst)
            notes.append(f"the worst of {len(gradients)} gradients of {mode}: {worst.tensor}")
    width = max(map(len, cells))
    lines = [("relative error", dict(zip(modes, modes, strict=True))), *cells.items()]
    rows = [
        "  ".join([f"{name:<{width}}", *(f"{row.get(mode, ''):>12}" for mode in modes)]).rstrip()
        for name, row in lines
    ]
    return "\n".join([*rows, *notes])


def _cell(difference: Difference) -> str:
    return f"{difference.error:.1e}{'' if difference.within else ' !'}"


def relative_error(ours: Any, golden: np.ndarray, floor: float = 0.0) -> float:
    """`max|ours − golden| / max|golden|`, the denominator at least `floor`; 0 where both are 0."""
    ours = np.asarray(ours)
    if ours.size != golden.size:
        return float("inf")
    difference = np.abs(ours.reshape(golden.shape) - golden).max()
    scale = max(np.abs(golden).max(), floor)
    return float(difference / scale) if scale else float(difference)


class _Golden:
    """One folder; what its files share is read, made and compiled once."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._config = read_config(folder)
        self._tensors, _ = read_weights(folder / SAFETENSORS[0])
        path = folder / "inputs.npz"
        inputs = read_arrays(path)
        self._sizes = sizes_of(inputs, path)
        self._features, self._batch = inputs["image_feat"], released_batch(inputs)
        self._model = functools.cache(self._make_model)
        self._differentiate = functools.cache(self._make_differentiate)

    def modes(self, kind: str, suffix: str) -> list[str]:
        """Of the files of a kind."""
        found, known = {}, typing.get_args(Fusion.__annotations__["mode"])
        for path in self._folder.glob(f"{kind}_*.{suffix}"):
            found[path.stem.removeprefix(f"{kind}_")] = path
        for mode in found.keys() - set(known):
            raise UserError(f"{found[mode]}: {mode!r} is no mode of fusion ({', '.join(known)})")
        return sorted(found)

    def outputs(self, mode: str) -> Iterator[Difference]:
        """What the forward pass gives."""
        path = self._folder / f"outputs_{mode}.npz"
        golden = {n: x for n, x in read_arrays(path).items() if not n.startswith(NOISE)}
        noise, (settings, params) = self._noise(mode), self._model(mode)
        active = objectives.active(settings)

        @jax.jit
        def tensors(params, contextualized, batch, noise):
            outputs = bound(settings, params).outputs(contextualized, batch, 1.0, noise)
            return _tensors(outputs, batch, active)

        ours = tensors(params, self._contextualized, self._batch, noise)
        _check_names(path, golden, ours)
        for name, tensor in golden.items():
            error = relative_error(ours[name], tensor)
            yield Difference(mode, "outputs", name, error, OUTPUT_LIMIT)

    def gradients(self, mode: str) -> Iterator[Difference]:
        """Of the total loss, by the parameters' names in the release."""
        path = self._folder / f"grads_{mode}.npz"
        golden = read_arrays(path)
        _, gradient = self._differentiate(mode)(self._model(mode)[1])
        ours = RELEASE.views(jax.device_get(gradient))
        _check_names(path, golden, ours)
        floor = GRADIENT_FLOOR * max(np.abs(tensor).max() for tensor in golden.values())
        for name, tensor in golden.items():
            error = relative_error(ours[name], tensor, floor)
            yield Difference(mode, "gradients", name, error, GRADIENT_LIMIT)

    def trajectory(self, mode: str) -> Difference:
        """The losses over a few steps of AdamW."""
        path = self._folder / f"trajectory_{mode}.json"
        if mode == "hard":
            raise UserError(
                f"{path}: hard fusion draws new noise at each step, nothing to compare with"
            )
        adamw, golden = read_trajectory(path)
        params, moments, losses = flat(self._model(mode)[1]), {}, []
        for step in range(1, len(golden) + 1):
            loss, gradient = self._differentiate(mode)(nested(params))
            losses.append(float(loss))
            params, moments = adamw.step(step, params, flat(jax.device_get(gradient)), moments)
        error = relative_error(losses, golden)
        tensor = f"loss of {len(losses)} steps"
        return Difference(mode, "trajectory", tensor, error, TRAJECTORY_LIMIT)

    @functools.cached_property
    def _contextualized(self) -> ByModality:
        """What is fused does not depend on the mode of fusion."""
        settings, params = self._model("mean")
        run = jax.jit(lambda *args: bound(settings, args[0]).interacted(*args[1:]))
        return run(params, self._features, self._batch)

    def _make_model(self, mode: str) -> tuple[Settings, Any]:
        """Settings and parameters."""
        model = model_settings(self._folder / CONFIG, self._config, mode)
        settings = released_settings(model, self._sizes)
        wanted = nested(Network(settings).abstract_params())
        return settings, read_tensors(RELEASE, self._tensors, wanted).params

    def _make_differentiate(self, mode: str) -> Any:
        """Parameters -> the total loss and its gradient."""
        settings, _ = self._model(mode)
        active = objectives.active(settings)

        def loss(params, features, batch, noise):
            model = bound(settings, params)
            outputs = model.outputs(model.interacted(features, batch), batch, 1.0, noise)
            sums = objectives.sums(active, outputs, batch, None)
            return objectives.total(active, sums, objectives.target_weights(active, batch))

        differentiate, noise = jax.jit(jax.value_and_grad(loss)), self._noise(mode)
        return lambda params: differentiate(params, self._features, self._batch, noise)

    def _noise(self, mode: str) -> ByModality:
        """What was drawn for the choices of `hard` fusion."""
        if mode != "hard":
            return SAMPLE_NOISE
        path = self._folder / f"outputs_{mode}.npz"
        golden, names = read_arrays(path), [NOISE + stream for stream in STREAMS]
        if lacking := [name for name in names if name not in golden]:
            raise UserError(
                f"{path} lacks {lacking[0]}, the noise that was drawn [B, positions, 3, width]"
            )
        return ByModality(*(golden[name] for name in names))


def _check_names(path: epath.Path, golden: Iterable[str], ours: Iterable[str]) -> None:
    if unknown := sorted(set(golden) - set(ours)):
        raise UserError(f"{path}: nothing here is called {unknown[0]}")


def _tensors(
    outputs: ReleasedOutputs,
    batch: Mapping[str, Any],
    active: Sequence[objectives.Objective],
) -> dict[str, jax.Array]:
    """All tensors by the names of the golden files."""
    (_, t, t_with_pv), (_, v, v_with_pv), (_, pv_with_v, pv_with_t) = outputs.contextualized
    result = {
        "stream_t": t,
        "stream_v": v,
        "stream_pv_with_v": pv_with_v,
        "stream_v_with_pv": v_with_pv,
        "stream_t_with_pv": t_with_pv,
        "stream_pv_with_t": pv_with_t,
        "c_initial": outputs.c,
        "c_final": outputs.product.embedding,
    }
    parts = (STREAMS, outputs.contextualized, outputs.streams.fused, outputs.streams.pooled)
    for name, features, fused, pooled in zip(*parts, strict=True):
        result[f"stream_ind_{name}"] = features[0]
        result[f"fused_{name}"] = fused
        result[f"pooled_{name}"] = pooled
    sums = objectives.sums(active, outputs, batch, None)
    return result | {name: safe_ratio(*sums[ours]) for name, ours in LOSSES.items()}
