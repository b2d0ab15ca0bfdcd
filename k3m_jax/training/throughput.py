"""How fast a run goes, and what share of the devices' peak its arithmetic is (MFU)."""

import contextlib
import time
from collections.abc import Iterator

import jax
import numpy as np

from k3m_jax.data.batch import masked_tokens
from k3m_jax.settings import Settings

# Dense bfloat16 peak of one device in FLOP/s, by what jax calls it (`Device.device_kind`), from the
# makers' data sheets. The first name that the device's own begins with counts.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Of one device; None where it is not known, as on a CPU."""
    return next((peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name)), None)


def forward_flops(settings: Settings) -> float:
    """FLOPs of the matrix products of one item's forward pass, padding included.

    A multiply and an add are two. Attention, fusion, aggregation and heads are counted; LayerNorm,
    softmax and other elementwise work are not.
    """
    s, model, inter = settings, settings.model, settings.model.interactor
    released = model.preset == "release"
    D, Dv, W = model.text.width, model.image.width, inter.width
    T, K, X, N = s.lengths.title, s.lengths.knowledge, s.lengths.triples, s.image.regions
    R, L, J = N + 1, s.lengths.candidate, 1 + s.objectives.lpm.negative_values
    V, M, H = model.vocabulary, masked_tokens(T, s.objectives.mlm.rate), model.structure.heads
    outputs = s.image.classes if s.objectives.mom.variant == "kl" else s.image.input_dim

    def layer(length, width, context, context_width, inner, mlp):
        """Multiply-adds of one Transformer layer that attends to `context` positions."""
        projections = 2 * length * width * inner + 2 * context * context_width * inner
        return projections + 2 * length * context * inner + 2 * length * width * mlp

    def stack(sizes, length, before):
        """Of a stream; what is run after the first block is run for each of two others."""
        one = layer(length, sizes.width, length, sizes.width, sizes.width, sizes.mlp)
        return one * (2 * sizes.layers - before[0] if released else sizes.layers)

    def blocks(length, other, other_width, inner, other_mlp):
        """Of an interactor of a text and another stream."""
        text = layer(length, D, other, other_width, inner, inter.text_mlp)
        return inter.blocks * (text + layer(other, other_width, length, D, inner, other_mlp))

    encoded = sum(stack(model.text, length, inter.text_layers) for length in (T, K))
    encoded += R * (s.image.input_dim + 5) * Dv + stack(model.image, R, inter.image_layers)
    interactors = blocks(T, R, Dv, W, inter.image_mlp)
    heads = M * D * (D + V) + N * Dv * (Dv + outputs)
    if released:
        interactors += blocks(K, R, Dv, W, inter.image_mlp) + blocks(T, K, D, D, inter.text_mlp)
        heads += K * D * (D + V)
        texts, views = T + K, 3
    else:
        encoded += J * stack(model.text, L, ())
        texts, views = T, 2
    scores, joined = views**2, views
    maps = {"mean": 0, "interactive": 0, "hard": scores, "soft": scores + joined}
    fusion = maps[model.fusion.mode] * (texts * D**2 + R * Dv**2) + R * Dv * D
    structure = H * X * 3 * D**2 + (model.structure.residual == "linear") * D**2
    structure += (model.structure.combine == "concat") * H * D**2
    return 2.0 * (encoded + interactors + fusion + structure + heads)


def training_flops(settings: Settings) -> float:
    """Of one item in one step: the backward pass has two products for each of the forward's."""
    return 3 * forward_flops(settings)


class Stopwatch:
    """Times steps and the waits for data between two reports."""

    def __init__(self, settings: Settings, devices: list[jax.Device]):
        self._items = settings.training.batch
        peak = peak_flops(devices[0].device_kind)
        self._floor = training_flops(settings) * self._items / (peak * len(devices)) if peak else 0
        self._last: float | None = None
        self._seconds: list[float] = []
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the call that waits for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def lap(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds.append(now - self._last)
        else:
            self._waited = 0.0  # what was waited before the first lap belongs to no step
        self._last = now

    def pause(self) -> None:
        """Something else than a step comes now: the next lap only starts the clock."""
        self._last = None

    def report(self) -> dict[str, float | None]:
        """Rates since the last report; seconds, items and shares. Empty if no step was timed."""
        seconds, waited = np.array(self._seconds), self._waited
        self._seconds, self._waited = [], 0.0
        if not len(seconds):
            return {}
        return {
            "items_per_second": float(self._items * len(seconds) / seconds.sum()),
            "step_seconds_p50": float(np.percentile(seconds, 50)),
            "step_seconds_p95": float(np.percentile(seconds, 95)),
            "data_wait_share": float(min(1.0, waited / seconds.sum())),
            "mfu": float(self._floor / np.mean(seconds)) if self._floor else None,
        }
